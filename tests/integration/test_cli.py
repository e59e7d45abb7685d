"""The commands that do one thing and end: what they do, and what they say when they cannot."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import typer
from typer.testing import CliRunner

from service import Workplace, eventually, refusal, workplace
from todo_adapters.postgres.url import DatabaseAddress
from todo_api.cli import app

PASSWORD: Final = "hunter2-hunter2"
SHARED_SECRET: Final = {
    "AUTH_MODE": "shared-secret",
    "BETTER_AUTH_SECRET": "a-secret-of-the-frontend-and-of-nobody-else",
}
COMMANDS: Final = sorted(typer.main.get_group(app).commands)


@pytest.fixture
def place() -> Iterator[Workplace]:
    with workplace() as place:
        yield place


@pytest.fixture
def database_url(empty_database: DatabaseAddress) -> str:
    """The URL of a database without any schema."""
    return empty_database.url.render_as_string(hide_password=False)


@pytest.fixture
def guarded_url(server_url: str) -> Iterator[str]:
    """The URL of a database, as a user whom the server asks for a password."""
    statements = (f"CREATE ROLE ada LOGIN PASSWORD '{PASSWORD}'", "SHOW hba_file")
    rules = Path(str(executed(server_url, *statements)))
    before = rules.read_text()
    rules.write_text(f"local all ada scram-sha-256\nhost all ada all scram-sha-256\n{before}")
    url = urlsplit(server_url)
    try:
        executed(server_url, "SELECT pg_reload_conf()")
        yield url._replace(netloc=f"ada:{PASSWORD}@{url.netloc.rpartition('@')[2]}").geturl()
    finally:
        rules.write_text(before)
        executed(server_url, "SELECT pg_reload_conf()", "DROP ROLE ada")


def executed(url: str, *statements: str) -> object:
    """What the last of the statements returns."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def refuses_password(url: str) -> bool:
    with suppress(asyncpg.InvalidPasswordError):
        executed(url, "SELECT 1")
        return False
    return True


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_teaches_what_the_command_is_for(self, command: str) -> None:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        usage, sentence, *_ = result.output.strip().split("\n\n")
        assert f" {command} " in usage
        assert sentence.strip().endswith(".")

    def test_lists_every_command_with_a_sentence_that_fits(self, place: Workplace) -> None:
        result = place.todo_api("--help")
        assert result.returncode == 0
        listed = result.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        assert sorted(line.split()[0] for line in listed) == COMMANDS
        assert all(line.endswith(".") and not line.endswith("...") for line in listed)

    def test_is_what_one_gets_without_a_command(self, place: Workplace) -> None:
        assert "Commands:" in CliRunner().invoke(app, []).output

    @pytest.mark.parametrize("mistake", ["sevre", "seed", "token --hours=0 ada", "dev now"])
    def test_is_offered_after_a_mistake(self, mistake: str) -> None:
        result = CliRunner().invoke(app, mistake.split())
        assert result.exit_code == 2
        assert "--help" in result.stderr


class TestMigrate:
    def test_prepares_the_database_and_is_idle_the_second_time(
        self, place: Workplace, database_url: str
    ) -> None:
        first, second = [place.todo_api("migrate", DATABASE_URL=database_url) for _ in range(2)]

        assert (first.returncode, second.returncode) == (0, 0)
        assert "The database is now at schema version" in first.stderr
        assert second.stdout + second.stderr == ""
        assert executed(database_url, "SELECT count(*) FROM todo.tasks") == 0

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo", "nothing listens"),
            (f"postgresql://ada:{PASSWORD}@/todo?host=/nowhere", "no server at the socket"),
        ],
    )
    def test_tells_that_there_is_no_server(self, place: Workplace, url: str, words: str) -> None:
        sentence = refusal(place.todo_api("migrate", DATABASE_URL=url))
        assert words in sentence
        assert PASSWORD not in sentence

    def test_tells_that_there_is_no_such_database(self, place: Workplace, server_url: str) -> None:
        url = urlsplit(server_url)._replace(path="/atlantis").geturl()
        sentence = refusal(place.todo_api("migrate", DATABASE_URL=url))
        assert "the database that DATABASE_URL names does not exist" in sentence

    def test_tells_that_the_password_is_wrong(self, place: Workplace, guarded_url: str) -> None:
        wrong = guarded_url.replace(PASSWORD, f"not-{PASSWORD}")
        assert eventually(lambda: refuses_password(wrong))
        sentence = refusal(place.todo_api("migrate", DATABASE_URL=wrong))
        assert "refuses the user or the password" in sentence
        assert PASSWORD not in sentence

    def test_tells_that_the_user_may_not_do_it(self, place: Workplace, guarded_url: str) -> None:
        sentence = refusal(place.todo_api("migrate", DATABASE_URL=guarded_url))
        assert "may not do this" in sentence


class TestToken:
    def test_is_for_users_of_the_development_issuer_alone(self, place: Workplace) -> None:
        result = place.todo_api("token", "ada", BETTER_AUTH_URL="http://localhost:3000")
        assert "BETTER_AUTH_URL" in refusal(result)
        assert not (place.directory / ".todo").exists()

    def test_is_for_a_user_that_can_be(self, place: Workplace) -> None:
        assert "a user id is printable text" in refusal(place.todo_api("token", "a\nda"))

    @pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----"])
    def test_needs_a_key_that_is_one(self, place: Workplace, content: str) -> None:
        key = place.directory / ".todo/issuer/development-key.pem"
        key.parent.mkdir(parents=True)
        key.write_text(content)
        assert "delete it, and a new one is made" in refusal(place.todo_api("token", "ada"))

    def test_needs_a_directory_for_its_key(self, place: Workplace) -> None:
        (place.directory / ".todo").touch()
        assert ".todo" in refusal(place.todo_api("token", "ada"))


class TestSeed:
    def test_gives_tasks_to_the_user(self, place: Workplace, database_url: str) -> None:
        place.todo_api("migrate", DATABASE_URL=database_url)
        result = place.todo_api("seed", "ada", DATABASE_URL=database_url)
        assert result.returncode == 0, result.stderr
        count = executed(database_url, "SELECT count(*) FROM todo.tasks WHERE owner = 'ada'")
        assert result.stderr == f"ada has {count} more tasks.\n"

    def test_tells_that_there_is_no_database(self, place: Workplace) -> None:
        url = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"
        sentence = refusal(place.todo_api("seed", "ada", DATABASE_URL=url))
        assert "nothing listens" in sentence

    def test_tells_that_the_database_is_not_prepared(
        self, place: Workplace, database_url: str
    ) -> None:
        sentence = refusal(place.todo_api("seed", "ada", DATABASE_URL=database_url))
        assert "todo-api migrate" in sentence


class TestDoctor:
    def test_finds_nothing_wrong_where_nothing_is(
        self, place: Workplace, database_url: str
    ) -> None:
        settings = {"DATABASE_URL": database_url, "CORS_ORIGINS": "https://app.example.com"}
        place.todo_api("migrate", **settings)
        result = place.todo_api("doctor", **settings, **SHARED_SECRET)
        assert result.returncode == 0, result.stderr
        assert [line.split()[0] for line in result.stderr.splitlines()] == ["ok", "ok", "ok"]

    def test_tells_of_each_part_how_to_mend_it(self, place: Workplace, database_url: str) -> None:
        settings = {"DATABASE_URL": database_url, "BETTER_AUTH_URL": "http://127.0.0.1:1"}
        result = place.todo_api("doctor", **settings)
        assert result.returncode == 1
        database, tokens, _ = result.stderr.splitlines()
        assert database.startswith("BAD  database: ")
        assert "run `todo-api migrate`" in database
        assert tokens.startswith("BAD  tokens: ")
        assert "127.0.0.1" in tokens

    def test_changes_nothing(self, place: Workplace) -> None:
        result = place.todo_api("doctor")
        assert result.returncode == 1
        assert "DATABASE_URL is missing" in result.stderr
        assert list(place.directory.iterdir()) == []


class TestSettings:
    def test_may_be_lines_of_a_file(self, place: Workplace) -> None:
        (place.directory / ".env").write_text("BETTER_AUTH_URL=http://localhost:3000\n")
        assert "BETTER_AUTH_URL" in refusal(place.todo_api("token", "ada"))

    def test_are_all_named_that_are_wrong(self, place: Workplace) -> None:
        result = place.todo_api("doctor", PORT="web", LOG_LEVEL="loud")
        assert result.returncode == 1
        assert [line.split()[1] for line in result.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]
