"""The commands that end by themselves: their effects and their error messages.

Most run in the test process, because that is faster. ``test_dev`` and ``test_serve`` run the real
program.
"""

import asyncio
import sys
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

from support.service import Sandbox, eventually, refusal
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.cli.commands import app
from todo_api.server.settings import Settings

PASSWORD: Final = "hunter2-hunter2"
UNREACHABLE: Final = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/todo"
SHARED_SECRET: Final = {
    "AUTH_MODE": "shared-secret",
    "BETTER_AUTH_SECRET": "a-secret-that-only-the-frontend-knows",
}

Command = Callable[..., CompletedProcess[str]]

COMMANDS: Final = sorted(typer.main.get_group(app).commands)


@pytest.fixture
def todo_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command in an empty directory with only the given settings; exceptions propagate."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str, **settings: str) -> CompletedProcess[str]:
        result = CliRunner().invoke(app, arguments, env=settings, catch_exceptions=False)
        return CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)

    yield run
    structlog.reset_defaults()  # commands silence the log


@pytest.fixture
def database_url(server_url: str, empty_database: DatabaseUrl) -> str:
    """The URL of an empty database."""
    return urlsplit(server_url)._replace(path=f"/{empty_database.url.database}").geturl()


@pytest.fixture
def url_with_password(server_url: str) -> Iterator[str]:
    """The URL of a database with a user that needs a password."""
    statements = (f"CREATE ROLE ada LOGIN PASSWORD '{PASSWORD}'", "SHOW hba_file")
    rules = Path(str(execute(server_url, *statements)))
    before = rules.read_text()
    rules.write_text(f"local all ada scram-sha-256\nhost all ada all scram-sha-256\n{before}")
    url = urlsplit(server_url)
    try:
        execute(server_url, "SELECT pg_reload_conf()")
        yield url._replace(netloc=f"ada:{PASSWORD}@{url.netloc.rpartition('@')[2]}").geturl()
    finally:
        rules.write_text(before)
        execute(server_url, "SELECT pg_reload_conf()", "DROP ROLE ada")


def execute(url: str, *statements: str) -> object:
    """Execute the statements; return the value of the last one."""

    async def run() -> object:
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


def refuses_password(url: str) -> bool:
    with suppress(asyncpg.InvalidPasswordError):
        execute(url, "SELECT 1")
        return False
    return True


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_starts_with_usage_and_a_sentence(self, todo_api: Command, command: str) -> None:
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

    def test_truncates_no_sentence(self, todo_api: Command) -> None:
        assert "..." not in todo_api("--help").stdout.partition("Commands:\n")[2]

    @pytest.mark.parametrize("mistake", ["sevre", "seed", "token --hours=0 ada", "dev now"])
    def test_is_suggested_after_a_usage_error(self, todo_api: Command, mistake: str) -> None:
        result = todo_api(*mistake.split())
        assert result.returncode == 2
        assert "--help" in result.stderr


class TestImports:
    @pytest.mark.parametrize("arguments", ["--version", "--help", "migrate --help", "token ada"])
    def test_exclude_web_and_database_if_the_command_needs_neither(
        self, sandbox: Sandbox, arguments: str
    ) -> None:
        program = (
            "import sys; from todo_api.cli.commands import app;"
            "app(sys.argv[1:], standalone_mode=False); print(*sys.modules, sep='\\n')"
        )
        result = sandbox.run(sys.executable, "-c", program, *arguments.split())
        assert result.returncode == 0, result.stderr
        modules = set(result.stdout.splitlines())
        assert "todo_api.cli.commands" in modules
        assert not modules & {"asyncpg", "fastapi", "granian", "httpx", "sqlalchemy", "structlog"}


class TestMigrate:
    def test_creates_the_schema_and_says_that_nothing_is_missing_the_second_time(
        self, todo_api: Command, database_url: str
    ) -> None:
        first, second = [todo_api("migrate", DATABASE_URL=database_url) for _ in range(2)]

        assert (first.returncode, second.returncode) == (0, 0)
        assert "The database is now at schema version" in first.stderr
        assert "no migration is missing" in second.stderr
        assert execute(database_url, "SELECT count(*) FROM todo.tasks") == 0

    def test_leaves_a_newer_schema_as_it_is(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        execute(database_url, "UPDATE todo.alembic_version SET version_num = '9999'")
        result = todo_api("migrate", DATABASE_URL=database_url)
        assert (result.returncode, result.stdout) == (0, "")
        assert "at schema version 9999: no migration is missing" in result.stderr

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (UNREACHABLE, "nothing listens"),
            (f"postgresql://ada:{PASSWORD}@/todo?host=/nowhere", "no server at the socket"),
        ],
    )
    def test_reports_that_there_is_no_server(
        self, todo_api: Command, url: str, message: str
    ) -> None:
        error = refusal(todo_api("migrate", DATABASE_URL=url))
        assert message in error
        assert PASSWORD not in error

    def test_reports_that_the_database_does_not_exist(
        self, todo_api: Command, server_url: str
    ) -> None:
        url = urlsplit(server_url)._replace(path="/atlantis").geturl()
        error = refusal(todo_api("migrate", DATABASE_URL=url))
        assert "the database that DATABASE_URL names does not exist" in error

    def test_reports_that_the_password_is_wrong(
        self, todo_api: Command, url_with_password: str
    ) -> None:
        wrong = url_with_password.replace(PASSWORD, f"not-{PASSWORD}")
        assert eventually(lambda: refuses_password(wrong))
        error = refusal(todo_api("migrate", DATABASE_URL=wrong))
        assert "refuses the user or the password" in error
        assert PASSWORD not in error

    def test_reports_missing_privileges(self, todo_api: Command, url_with_password: str) -> None:
        error = refusal(todo_api("migrate", DATABASE_URL=url_with_password))
        assert "lacks a privilege" in error


class TestToken:
    def test_is_not_issued_if_an_auth_server_is_configured(
        self, todo_api: Command, tmp_path: Path
    ) -> None:
        result = todo_api("token", "ada", BETTER_AUTH_URL="http://localhost:3000")
        assert "BETTER_AUTH_URL" in refusal(result)
        assert not (tmp_path / ".todo").exists()

    def test_is_not_issued_for_an_invalid_user_id(self, todo_api: Command) -> None:
        assert "a user id is printable text" in refusal(todo_api("token", "a\nda"))

    @pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----"])
    def test_reports_an_invalid_key_file(
        self, todo_api: Command, tmp_path: Path, content: str
    ) -> None:
        key = tmp_path / ".todo/issuer/development-key.pem"
        key.parent.mkdir(parents=True)
        key.write_text(content)
        assert "delete the file, and a new key is created" in refusal(todo_api("token", "ada"))

    def test_reports_a_directory_that_cannot_hold_the_key(
        self, todo_api: Command, tmp_path: Path
    ) -> None:
        (tmp_path / ".todo").touch()
        assert ".todo" in refusal(todo_api("token", "ada"))


class TestSeed:
    def test_creates_tasks_for_the_user(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        result = todo_api("seed", "ada", DATABASE_URL=database_url)
        assert result.returncode == 0, result.stderr
        count = execute(database_url, "SELECT count(*) FROM todo.tasks WHERE user_id = 'ada'")
        assert result.stderr == f"ada has {count} more tasks.\n"

    def test_reports_that_there_is_no_server(self, todo_api: Command) -> None:
        assert "nothing listens" in refusal(todo_api("seed", "ada", DATABASE_URL=UNREACHABLE))

    def test_reports_a_missing_schema(self, todo_api: Command, database_url: str) -> None:
        assert "todo-api migrate" in refusal(todo_api("seed", "ada", DATABASE_URL=database_url))


class TestDoctor:
    def test_passes_all_checks_of_a_correct_setup(
        self, todo_api: Command, database_url: str
    ) -> None:
        settings = {"DATABASE_URL": database_url, "CORS_ORIGINS": "https://app.example.com"}
        todo_api("migrate", **settings)
        result = todo_api("doctor", **settings, **SHARED_SECRET)
        assert result.returncode == 0
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}

    def test_says_how_to_fix_each_failed_check(self, todo_api: Command, database_url: str) -> None:
        settings = {"DATABASE_URL": database_url, "BETTER_AUTH_URL": "http://127.0.0.1:1"}
        result = todo_api("doctor", **settings)
        schema, tokens = [line for line in result.stdout.splitlines() if line.startswith("BAD")]
        assert result.returncode == 1
        assert "run `todo-api migrate`" in schema
        assert "127.0.0.1" in tokens

    def test_names_an_unusable_variable_of_the_http_client(self, todo_api: Command) -> None:
        result = todo_api(
            "doctor", BETTER_AUTH_URL="http://localhost:3000", SSL_CERT_FILE="/nonexistent"
        )
        assert "SSL_CERT_FILE is invalid" in result.stdout

    def test_shows_no_secret(self, todo_api: Command) -> None:
        result = todo_api("doctor", DATABASE_URL=UNREACHABLE, **SHARED_SECRET)
        assert "nothing listens" in result.stdout
        for secret in (PASSWORD, SHARED_SECRET["BETTER_AUTH_SECRET"]):
            assert secret not in result.stdout + result.stderr

    def test_changes_nothing(self, todo_api: Command, tmp_path: Path) -> None:
        result = todo_api("doctor")
        assert result.returncode == 1
        assert "DATABASE_URL is missing" in result.stdout
        assert list(tmp_path.iterdir()) == []


class TestSettings:
    def test_can_be_in_a_dotenv_file(self, todo_api: Command, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("BETTER_AUTH_URL=http://localhost:3000\n")
        assert "BETTER_AUTH_URL" in refusal(todo_api("token", "ada"))

    def test_that_are_invalid_are_all_reported(self, todo_api: Command) -> None:
        result = todo_api("doctor", PORT="web", LOG_LEVEL="loud")
        assert result.returncode == 1
        assert [line.split()[1] for line in result.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]
