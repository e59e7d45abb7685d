"""The commands that do one thing and end: what they do, and what they say when they cannot.

They run in this process, which is quicker; ``test_dev`` and ``test_serve`` run the real ones.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog
import typer
from typer.testing import CliRunner

from support.service import eventually, refusal
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.cli.commands import app
from todo_api.server.settings import Settings

PASSWORD: Final = "hunter2-hunter2"
NOWHERE: Final = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"
SHARED_SECRET: Final = {
    "AUTH_MODE": "shared-secret",
    "BETTER_AUTH_SECRET": "a-secret-of-the-frontend-and-of-nobody-else",
}

Command = Callable[..., CompletedProcess[str]]

COMMANDS: Final = sorted(typer.main.get_group(app).commands)


@pytest.fixture
def todo_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command in an empty directory with the given settings alone; raises what it raises."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str, **settings: str) -> CompletedProcess[str]:
        result = CliRunner().invoke(app, arguments, env=settings, catch_exceptions=False)
        return CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    yield run
    structlog.reset_defaults()  # commands silence the log, and this process has other tests


@pytest.fixture
def database_url(server_url: str, empty_database: DatabaseUrl) -> str:
    """The URL of a database without any schema."""
    return urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()


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
    def test_teaches_what_the_command_is_for(self, todo_api: Command, command: str) -> None:
        result = todo_api(command, "--help")
        assert result.returncode == 0
        usage, sentence, *_ = result.stdout.strip().split("\n\n")
        assert f" {command} " in usage
        assert sentence.strip().endswith(".")

    @pytest.mark.parametrize("arguments", [[], ["--help"]])
    def test_lists_every_command(self, todo_api: Command, arguments: list[str]) -> None:
        result = todo_api(*arguments)
        listed = (result.stdout + result.stderr).partition("Commands:\n")[2].splitlines()
        assert sorted(line.split()[0] for line in listed[: len(COMMANDS)]) == COMMANDS

    def test_lists_sentences_that_are_complete(self, todo_api: Command) -> None:
        assert "..." not in todo_api("--help").stdout.partition("Commands:\n")[2]

    @pytest.mark.parametrize("mistake", ["sevre", "seed", "token --hours=0 ada", "dev now"])
    def test_is_offered_after_a_mistake(self, todo_api: Command, mistake: str) -> None:
        result = todo_api(*mistake.split())
        assert result.returncode == 2
        assert "--help" in result.stderr


class TestMigrate:
    def test_prepares_the_database_and_is_idle_the_second_time(
        self, todo_api: Command, database_url: str
    ) -> None:
        first, second = [todo_api("migrate", DATABASE_URL=database_url) for _ in range(2)]

        assert (first.returncode, second.returncode) == (0, 0)
        assert "The database is now at schema version" in first.stderr
        assert second.stdout + second.stderr == ""
        assert executed(database_url, "SELECT count(*) FROM todo.tasks") == 0

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (NOWHERE, "nothing listens"),
            (f"postgresql://ada:{PASSWORD}@/todo?host=/nowhere", "no server at the socket"),
        ],
    )
    def test_tells_that_there_is_no_server(self, todo_api: Command, url: str, words: str) -> None:
        sentence = refusal(todo_api("migrate", DATABASE_URL=url))
        assert words in sentence
        assert PASSWORD not in sentence

    def test_tells_that_there_is_no_such_database(self, todo_api: Command, server_url: str) -> None:
        url = urlsplit(server_url)._replace(path="/atlantis").geturl()
        sentence = refusal(todo_api("migrate", DATABASE_URL=url))
        assert "the database that DATABASE_URL names does not exist" in sentence

    def test_tells_that_the_password_is_wrong(self, todo_api: Command, guarded_url: str) -> None:
        wrong = guarded_url.replace(PASSWORD, f"not-{PASSWORD}")
        assert eventually(lambda: refuses_password(wrong))
        sentence = refusal(todo_api("migrate", DATABASE_URL=wrong))
        assert "refuses the user or the password" in sentence
        assert PASSWORD not in sentence

    def test_tells_that_the_user_may_not_do_it(self, todo_api: Command, guarded_url: str) -> None:
        sentence = refusal(todo_api("migrate", DATABASE_URL=guarded_url))
        assert "lacks a privilege" in sentence


class TestToken:
    def test_is_for_users_of_the_development_issuer_alone(
        self, todo_api: Command, tmp_path: Path
    ) -> None:
        result = todo_api("token", "ada", BETTER_AUTH_URL="http://localhost:3000")
        assert "BETTER_AUTH_URL" in refusal(result)
        assert not (tmp_path / ".todo").exists()

    def test_is_for_a_user_that_can_be(self, todo_api: Command) -> None:
        assert "a user id is printable text" in refusal(todo_api("token", "a\nda"))

    @pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----"])
    def test_needs_a_key_that_is_one(self, todo_api: Command, tmp_path: Path, content: str) -> None:
        key = tmp_path / ".todo/issuer/development-key.pem"
        key.parent.mkdir(parents=True)
        key.write_text(content)
        assert "delete it, and a new one is made" in refusal(todo_api("token", "ada"))

    def test_needs_a_directory_for_its_key(self, todo_api: Command, tmp_path: Path) -> None:
        (tmp_path / ".todo").touch()
        assert ".todo" in refusal(todo_api("token", "ada"))


class TestSeed:
    def test_gives_tasks_to_the_user(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        result = todo_api("seed", "ada", DATABASE_URL=database_url)
        assert result.returncode == 0, result.stderr
        count = executed(database_url, "SELECT count(*) FROM todo.tasks WHERE user_id = 'ada'")
        assert result.stderr == f"ada has {count} more tasks.\n"

    def test_tells_that_there_is_no_database(self, todo_api: Command) -> None:
        sentence = refusal(todo_api("seed", "ada", DATABASE_URL=NOWHERE))
        assert "nothing listens" in sentence

    def test_tells_that_the_database_is_not_prepared(
        self, todo_api: Command, database_url: str
    ) -> None:
        sentence = refusal(todo_api("seed", "ada", DATABASE_URL=database_url))
        assert "todo-api migrate" in sentence


class TestDoctor:
    def test_finds_nothing_wrong_where_nothing_is(
        self, todo_api: Command, database_url: str
    ) -> None:
        settings = {"DATABASE_URL": database_url, "CORS_ORIGINS": "https://app.example.com"}
        todo_api("migrate", **settings)
        result = todo_api("doctor", **settings, **SHARED_SECRET)
        assert result.returncode == 0
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}

    def test_tells_of_each_bad_part_how_to_mend_it(
        self, todo_api: Command, database_url: str
    ) -> None:
        settings = {"DATABASE_URL": database_url, "BETTER_AUTH_URL": "http://127.0.0.1:1"}
        result = todo_api("doctor", **settings)
        schema, tokens = [line for line in result.stdout.splitlines() if line.startswith("BAD")]
        assert result.returncode == 1
        assert "run `todo-api migrate`" in schema
        assert "127.0.0.1" in tokens

    def test_shows_no_secret(self, todo_api: Command) -> None:
        result = todo_api("doctor", DATABASE_URL=NOWHERE, **SHARED_SECRET)
        assert "nothing listens" in result.stdout
        for secret in (PASSWORD, SHARED_SECRET["BETTER_AUTH_SECRET"]):
            assert secret not in result.stdout + result.stderr

    def test_changes_nothing(self, todo_api: Command, tmp_path: Path) -> None:
        result = todo_api("doctor")
        assert result.returncode == 1
        assert "DATABASE_URL is missing" in result.stdout
        assert list(tmp_path.iterdir()) == []


class TestSettings:
    def test_may_be_lines_of_a_file(self, todo_api: Command, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("BETTER_AUTH_URL=http://localhost:3000\n")
        assert "BETTER_AUTH_URL" in refusal(todo_api("token", "ada"))

    def test_are_all_named_that_are_wrong(self, todo_api: Command) -> None:
        result = todo_api("doctor", PORT="web", LOG_LEVEL="loud")
        assert result.returncode == 1
        assert [line.split()[1] for line in result.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]
