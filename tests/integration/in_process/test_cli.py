"""The commands that end by themselves: their effects and their error messages.

Most run in the test process, because that is faster. ``test_dev`` and ``test_serve`` run the real
program.
"""

import asyncio
import json
import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from support.jose_tokens import key_set, signer
from support.service import PATIENCE, Sandbox, eventually, refusal
from todo_adapters.postgres.url import DatabaseUrl
from todo_api.cli.commands import ExportFormat, app
from todo_api.cli.database import log_encoding_problem
from todo_api.exports import FORMATS
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


@pytest.fixture(scope="module")
def latin1_url(server_url: str) -> str:
    """The URL of an empty database with another encoding."""
    execute(
        server_url,
        "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
        " TEMPLATE template0",
    )
    return urlsplit(server_url)._replace(path="/latin1").geturl()


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


@pytest.fixture
def slow_issuer() -> Iterator[str]:
    """The origin of an auth server whose clock is two minutes slow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() - 120, usegmt=True))
            self.end_headers()
            self.wfile.write(key_set(signer().jwk()))

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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

    def test_refuses_an_encoding_that_cannot_store_every_text(
        self, todo_api: Command, latin1_url: str
    ) -> None:
        error = refusal(todo_api("migrate", DATABASE_URL=latin1_url))
        assert "the database's encoding is LATIN1" in error
        assert "CREATE DATABASE latin1_utf8 ENCODING 'UTF8'" in error
        assert execute(latin1_url, "SELECT to_regnamespace('todo')") is None


class TestServe:
    def test_logs_what_to_change_in_the_database(
        self, todo_api: Command, latin1_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del todo_api  # which leaves no settings in the environment
        monkeypatch.setenv("DATABASE_URL", latin1_url)
        with capture_logs() as log:
            asyncio.run(log_encoding_problem(Settings.read()))
        assert [entry["event"] for entry in log] == ["database.configuration"]
        assert "LATIN1" in log[0]["hint"]


class TestPurge:
    def test_prints_the_numbers_of_purged_rows(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        todo_api("seed", "ada", DATABASE_URL=database_url)
        execute(
            database_url,
            "UPDATE todo.tasks SET change = 0, deleted_at = now() - interval '8 days'"
            " WHERE completed_at IS NULL",
            "INSERT INTO todo.idempotency_keys (user_id, key, content, task_id, created_at)"
            " VALUES ('ada', 'k', '', gen_random_uuid(), now() - interval '2 days')",
        )
        pending = execute(database_url, "SELECT count(*) FROM todo.tasks WHERE deleted_at < now()")
        settings = {"DATABASE_URL": database_url, "RETENTION_DAYS": "7"}
        first, second = [todo_api("purge", **settings) for _ in range(2)]
        assert (first.returncode, second.returncode) == (0, 0)
        assert first.stdout == f"Purged {pending} deleted tasks and 1 idempotency keys.\n"
        assert second.stdout == "Purged 0 deleted tasks and 0 idempotency keys.\n"

    def test_reports_that_there_is_no_server(self, todo_api: Command) -> None:
        assert "nothing listens" in refusal(todo_api("purge", DATABASE_URL=UNREACHABLE))

    def test_reports_a_missing_schema(self, todo_api: Command, database_url: str) -> None:
        assert "todo-api migrate" in refusal(todo_api("purge", DATABASE_URL=database_url))


class TestUsers:
    def test_lists_the_users_with_the_numbers_of_their_tasks(
        self, todo_api: Command, database_url: str
    ) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        for user in ("ada", "bob", "eve\x1b[2J"):
            todo_api("seed", user, DATABASE_URL=database_url)
        execute(
            database_url,
            "UPDATE todo.tasks SET change = 0, deleted_at = now()"
            " WHERE user_id = 'bob' AND completed_at IS NULL",
            "UPDATE todo.users SET first_seen_at = '2026-01-18Z', last_seen_at = '2026-02-01Z'",
        )
        days = "2026-01-18  2026-02-01"
        header, *lines = todo_api("users", DATABASE_URL=database_url).stdout.splitlines()
        assert header.split() == ["TASKS", "DELETED", "FIRST", "SEEN", "LAST", "SEEN", "USER"]
        assert lines == [
            f"      7        0  {days}  ada",
            f"      2        5  {days}  bob",
            f'      7        0  {days}  "eve\\u001b[2J"',
        ]

    def test_lists_as_many_as_the_limit_and_names_the_next_command(
        self, todo_api: Command, database_url: str
    ) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        for user in ("ada", "ada's", "bob"):
            todo_api("seed", user, DATABASE_URL=database_url)
        first = todo_api("users", "--limit=2", DATABASE_URL=database_url)
        *_, more = first.stdout.splitlines()
        assert len(first.stdout.splitlines()) == 4
        command = shlex.split(more.partition(": ")[2])
        assert command[:1] == ["todo-api"]
        second = todo_api(*command[1:], DATABASE_URL=database_url)
        assert [line.split()[-1] for line in second.stdout.splitlines()] == ["USER", "bob"]


class TestExport:
    def test_writes_what_the_user_can_import(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        todo_api("seed", "ada", DATABASE_URL=database_url)
        document = json.loads(todo_api("export", "ada", DATABASE_URL=database_url).stdout)
        assert document["user"]["id"] == "ada"
        assert len(document["tasks"]) == 7

    @pytest.mark.parametrize(
        ("extension", "start"), [("ics", "BEGIN:VCALENDAR"), ("csv", "\ufeffid,title,")]
    )
    def test_writes_other_formats(
        self, todo_api: Command, database_url: str, extension: str, start: str
    ) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        todo_api("seed", "ada", DATABASE_URL=database_url)
        result = todo_api("export", "ada", "--format", extension, DATABASE_URL=database_url)
        assert result.stdout.startswith(start)

    def test_of_an_unknown_user_is_an_error(self, todo_api: Command, database_url: str) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        error = refusal(todo_api("export", "nil", DATABASE_URL=database_url))
        assert "nothing is stored about the user nil" in error

    def test_has_every_format_of_the_api(self) -> None:
        assert [each.value for each in ExportFormat] == [each.extension for each in FORMATS]


class TestErase:
    @pytest.fixture
    def seeded_url(self, todo_api: Command, database_url: str) -> str:
        todo_api("migrate", DATABASE_URL=database_url)
        for user in ("ada", "bob"):
            todo_api("seed", user, DATABASE_URL=database_url)
        return database_url

    def test_with_yes_erases_the_user(self, todo_api: Command, seeded_url: str) -> None:
        first, second = [
            todo_api("erase", "ada", "--yes", DATABASE_URL=seeded_url) for _ in range(2)
        ]
        assert "Erased 7 tasks of ada" in first.stderr
        assert (second.returncode, "Erased 0 tasks" in second.stderr) == (0, True)
        assert execute(seeded_url, "SELECT array_agg(id) FROM todo.users") == ["bob"]

    def test_without_a_terminal_needs_yes(self, todo_api: Command, seeded_url: str) -> None:
        assert "add --yes" in refusal(todo_api("erase", "ada", DATABASE_URL=seeded_url))
        assert execute(seeded_url, "SELECT count(*) FROM todo.tasks") == 14

    @pytest.mark.parametrize(("typed", "code", "left"), [("ada", 0, 7), ("bob", 1, 14)])
    def test_on_a_terminal_asks_for_the_users_id(
        self, sandbox: Sandbox, seeded_url: str, typed: str, code: int, left: int
    ) -> None:
        keyboard, terminal = pty.openpty()
        os.write(keyboard, f"{typed}\n".encode())
        result = subprocess.run(
            [sandbox.program, "erase", "ada"],
            cwd=sandbox.directory,
            env=sandbox.environment(DATABASE_URL=seeded_url),
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        os.close(keyboard)
        os.close(terminal)
        assert "7 tasks of ada will be erased for good" in result.stderr
        assert result.returncode == code
        assert execute(seeded_url, "SELECT count(*) FROM todo.tasks") == left


@pytest.mark.parametrize("command", ["users", "export ada", "erase ada --yes"])
class TestCommandsForUsers:
    def test_report_that_there_is_no_server(self, todo_api: Command, command: str) -> None:
        assert "nothing listens" in refusal(todo_api(*command.split(), DATABASE_URL=UNREACHABLE))

    def test_report_a_missing_schema(
        self, todo_api: Command, database_url: str, command: str
    ) -> None:
        error = refusal(todo_api(*command.split(), DATABASE_URL=database_url))
        assert "todo-api migrate" in error


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


def doctor_lines(result: CompletedProcess[str], level: str) -> dict[str, str]:
    """The lines of a level, by the name of the check. Fails if a check has two of them."""
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    found = [rest.partition(": ")[::2] for first, rest in lines if first == level]
    assert len(dict(found)) == len(found), result.stdout
    return {name: text.strip() for name, text in found}


class TestDoctor:
    def test_passes_all_checks_of_a_correct_setup(
        self, todo_api: Command, database_url: str
    ) -> None:
        settings = {"DATABASE_URL": database_url, "CORS_ORIGINS": "https://app.example.com"}
        todo_api("migrate", **settings)
        result = todo_api("doctor", **settings, **SHARED_SECRET)
        assert result.returncode == 0
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok", "info"}

    def test_says_how_to_fix_each_failed_check(self, todo_api: Command, database_url: str) -> None:
        settings = {"DATABASE_URL": database_url, "BETTER_AUTH_URL": "http://127.0.0.1:1"}
        result = todo_api("doctor", **settings)
        failures = doctor_lines(result, "BAD")
        assert result.returncode == 1
        assert failures.keys() == {"schema", "tokens"}
        assert "run `todo-api migrate`" in failures["schema"]
        assert "http://127.0.0.1:1/api/auth/jwks: nothing listens" in failures["tokens"]

    def test_says_what_serve_needs(self, todo_api: Command) -> None:
        result = todo_api("doctor")
        failures = doctor_lines(result, "BAD")
        assert result.returncode == 1
        assert failures["database"].startswith("DATABASE_URL is missing")
        assert failures["tokens"].startswith("BETTER_AUTH_URL is missing")

    def test_reports_a_server_that_is_away_once(self, todo_api: Command) -> None:
        result = todo_api("doctor", DATABASE_URL=UNREACHABLE, **SHARED_SECRET)
        assert result.stdout.count("nothing listens") == 1
        assert doctor_lines(result, "BAD").keys() == {"database"}
        assert "127.0.0.1:1/todo" in result.stdout

    def test_checks_the_rest_if_a_setting_is_invalid(self, todo_api: Command) -> None:
        result = todo_api("doctor", BETTER_AUTH_URL="https://a.example/api/auth", PORT="http")
        lines = [line for line in result.stdout.splitlines() if line.startswith("BAD")]
        assert result.returncode == 1
        assert len(lines) == 3
        assert "BETTER_AUTH_URL must be the origin alone: write https://a.example" in lines[0]
        assert "PORT must be a number from 1 to 65535, not 'http'" in lines[1]
        assert "DATABASE_URL is missing" in lines[2]

    @pytest.mark.parametrize(
        ("variables", "level", "check", "text"),
        [
            ({}, "warn", "CORS", "CORS_ORIGINS is not set, so browsers block"),
            ({}, "info", "proxies", "FORWARDED_ALLOW_IPS is not set"),
            ({"LOG_LEVEL": "debug"}, "warn", "settings", "LOG_LEVEL=debug is for development"),
            (
                {"CORS_ORIGINS": "https://app.example.com,http://localhost:3000"},
                "warn",
                "CORS",
                "localhost: remove it in production",
            ),
            ({"RATE_LIMIT": "600/min"}, "BAD", "rate limits", "RATE_LIMIT must be like 600/minute"),
            (
                {"RATE_LIMIT_AUTH_FAILURES": "0/minute"},
                "BAD",
                "rate limits",
                "RATE_LIMIT_AUTH_FAILURES must be like 600/minute",
            ),
            (
                {"REDIS_URL": "redis://:hunter2@127.0.0.1:1"},
                "BAD",
                "rate limits",
                "it cannot be reached: check host and port of REDIS_URL",
            ),
            ({"HOST": "192.0.2.1"}, "BAD", "server", "HOST=192.0.2.1 is not an address of"),
            (
                {"DATABASE_URL": "postgresql://ada:hunter2@db.example.com"},
                "BAD",
                "database",
                "has no name of a database",
            ),
            ({"AUTH_ALGORITHMS": "eddsa"}, "BAD", "tokens", "cannot be eddsa: choose from EdDSA"),
            (
                {"AUTH_ISSUER": "https://app.example.com/"},
                "warn",
                "tokens",
                "AUTH_ISSUER ends with a slash",
            ),
            (
                {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": f"'{'hunter2' * 9}'"},
                "warn",
                "tokens",
                "BETTER_AUTH_SECRET starts or ends with a quote",
            ),
            (
                {"AUTH_MODE": "shared-secret", "BETTER_AUTH_SECRET": "hunter2"},
                "BAD",
                "tokens",
                "32",
            ),
            ({"SSL_CERT_FILE": "/nonexistent"}, "BAD", "tokens", "SSL_CERT_FILE is invalid"),
        ],
    )
    def test_reports(
        self,
        todo_api: Command,
        variables: dict[str, str],
        level: str,
        check: str,
        text: str,
    ) -> None:
        settings = {"AUTH_JWKS_URL": "https://127.0.0.1:1/", "AUTH_ISSUER": "x"}
        if "AUTH_MODE" in variables:
            settings = {}
        result = todo_api("doctor", **settings | {"AUTH_AUDIENCE": "x"} | variables)
        assert text in doctor_lines(result, level)[check]
        assert "hunter2" not in result.stdout + result.stderr

    @pytest.mark.parametrize(
        ("variable", "setting"),
        [
            ("CORS_ORIGIN", "CORS_ORIGINS"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("BETTER_AUTH_URI", "BETTER_AUTH_URL"),
            ("JWKS_URL", "AUTH_JWKS_URL"),
            ("RATELIMIT", "RATE_LIMIT"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("TRUSTED_PROXIES", "FORWARDED_ALLOW_IPS"),
            ("UVICORN_PORT", "PORT"),
            ("TODO_API_REDIS_URL", "REDIS_URL"),
        ],
    )
    def test_names_the_setting_of_a_misspelled_variable(
        self, todo_api: Command, tmp_path: Path, variable: str, setting: str
    ) -> None:
        sentence = f"{variable} has no effect: the name of the setting is {setting}"
        assert sentence in todo_api("doctor", **{variable: "x"}).stdout
        (tmp_path / ".env").write_text(f"{variable}=x\n")
        assert sentence in todo_api("doctor").stdout

    @pytest.mark.parametrize(
        "variables",
        [
            {"TODO_API_PORT": "tcp://10.0.0.1:8000", "TODO_API_SERVICE_HOST": "10.0.0.1"},
            {"HOSTNAME": "x", "DATABASE_HOST": "x", "REDIS_PORT": "6379", "LOGNAME": "x"},
            {"POSTGRES_URL": "x", "DATABASE_URL": UNREACHABLE},
        ],
    )
    def test_suggests_nothing_for_variables_of_others(
        self, todo_api: Command, variables: dict[str, str]
    ) -> None:
        assert "has no effect" not in todo_api("doctor", **variables).stdout

    @pytest.mark.parametrize(
        ("default", "level", "text"),
        [
            ("default_transaction_read_only = on", "BAD", "nothing can be written"),
            ("default_transaction_isolation = 'serializable'", "warn", "is serializable"),
            ("synchronous_commit = off", "warn", "synchronous_commit is off"),
        ],
    )
    def test_reports_the_defaults_of_sessions(
        self, todo_api: Command, database_url: str, default: str, level: str, text: str
    ) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        name = urlsplit(database_url).path.removeprefix("/")
        execute(database_url, f'ALTER DATABASE "{name}" SET {default}')
        result = todo_api("doctor", DATABASE_URL=database_url)
        assert text in doctor_lines(result, level)["database"]

    def test_reports_an_encoding_that_cannot_store_every_text(
        self, todo_api: Command, server_url: str
    ) -> None:
        execute(
            server_url,
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc"
            " TEMPLATE template0",
        )
        url = urlsplit(server_url)._replace(path="/latin").geturl()
        result = todo_api("doctor", DATABASE_URL=url)
        execute(server_url, "DROP DATABASE latin")
        assert "encoding is LATIN1" in doctor_lines(result, "BAD")["database"]

    def test_reports_tables_that_the_role_may_not_use(
        self, todo_api: Command, database_url: str, url_with_password: str
    ) -> None:
        todo_api("migrate", DATABASE_URL=database_url)
        path = urlsplit(database_url).path
        url = urlsplit(url_with_password)._replace(path=path).geturl()
        result = todo_api("doctor", DATABASE_URL=url)
        failure = doctor_lines(result, "BAD")["database"]
        assert "the role ada has no privileges on" in failure
        assert "tasks" in failure

    def test_reports_a_wrong_clock_once(
        self, todo_api: Command, database_url: str, slow_issuer: str
    ) -> None:
        result = todo_api("doctor", DATABASE_URL=database_url, BETTER_AUTH_URL=slow_issuer)
        failure = doctor_lines(result, "BAD")["clock"]
        assert "this machine's clock differs from the auth server's clock by +1" in failure

    def test_shows_no_secret(self, todo_api: Command) -> None:
        result = todo_api("doctor", DATABASE_URL=UNREACHABLE, **SHARED_SECRET)
        for secret in (PASSWORD, SHARED_SECRET["BETTER_AUTH_SECRET"]):
            assert secret not in result.stdout + result.stderr

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("OTEL_PROPAGATORS", "nonsense"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
        ],
    )
    def test_names_a_variable_that_opentelemetry_rejects(
        self, sandbox: Sandbox, variable: str, value: str
    ) -> None:
        collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
        error = refusal(sandbox.todo_api("doctor", **collector | {variable: value}))
        assert error.startswith("OpenTelemetry rejects a value (")
        assert variable in error

    def test_escapes_what_the_terminal_cannot_show(self, sandbox: Sandbox) -> None:
        result = sandbox.todo_api("doctor", CORS_ORIGINS="ü", PYTHONIOENCODING="ascii")
        assert "not '\\xfc'" in result.stdout

    def test_changes_nothing(self, todo_api: Command, tmp_path: Path) -> None:
        assert todo_api("doctor").returncode == 1
        assert list(tmp_path.iterdir()) == []


class TestSettings:
    def test_can_be_in_a_dotenv_file(self, todo_api: Command, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("BETTER_AUTH_URL=http://localhost:3000\n")
        assert "BETTER_AUTH_URL" in refusal(todo_api("token", "ada"))

    def test_that_are_invalid_are_all_reported(self, todo_api: Command) -> None:
        result = todo_api("migrate", PORT="web", LOG_LEVEL="loud")
        assert result.returncode == 1
        assert [line.split()[1] for line in result.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]
