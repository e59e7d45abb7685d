"""The command line: arguments, help texts and exit codes.

Each command imports its code when it runs. If this module imported everything, ``todo-api
--version`` would import FastAPI, SQLAlchemy and httpx, and take 1.4 s instead of 0.1 s.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from todo_api.server.settings import Settings

app = typer.Typer(
    epilog=(
        "Start with `todo-api dev`: it needs no settings. In production, set DATABASE_URL and "
        "BETTER_AUTH_URL, then run `migrate`, `doctor` and `serve`. Each setting is an environment "
        "variable or a line of the file .env in the working directory."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class ExportFormat(StrEnum):
    """The file extensions of the formats of ``todo_api.exports``."""

    JSON = "json"
    ICALENDAR = "ics"
    CSV = "csv"


UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id, such as alice.")]


def _show_version(is_requested: bool) -> None:
    if is_requested:
        from importlib.metadata import version

        typer.echo(f"todo-api {version('todo-api')}")
        raise typer.Exit


@app.callback()
def todo_api(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The API of a to-do application: verifies Better Auth tokens, keeps tasks in PostgreSQL."""
    # A process 1, as in a container, ignores a signal that has no handler.
    signal.signal(signal.SIGTERM, _exit)


@app.command()
def dev(
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Update the schema of the database of DATABASE_URL.")
    ] = False,
) -> None:
    """Run for development: embedded PostgreSQL, development tokens.

    Set DATABASE_URL to use another database, and BETTER_AUTH_URL to accept the tokens of your auth
    server.
    """
    with _command_settings() as settings:
        from todo_api.cli.dev import run_dev

        run_dev(settings, migrates=migrate)


@app.command()
def serve() -> None:
    """Run in production.

    Needs DATABASE_URL, and BETTER_AUTH_URL or another way to verify tokens. If a setting is missing
    or unsafe, it names the setting and does not start. SIGTERM stops it when the accepted requests
    are finished; SIGHUP replaces the workers one by one.
    """
    with _command_settings() as settings:
        from todo_api.cli.serve import run_serve

        run_serve(settings)


@app.command()
def migrate() -> None:
    """Update the database schema to the newest version.

    Run it before you serve a new version. Repeated and concurrent runs are safe.
    """
    with _command_settings() as settings:
        from todo_api.cli import database

        database.migrate(database.with_running_database(settings))


@app.command()
def resync() -> None:
    """Make all clients read all tasks again. Run it after you restore a backup.

    Clients that keep a copy of the tasks can have changes that the backup does not contain. Their
    next request for changes gets 410, and they start over.
    """
    with _command_settings() as settings:
        from todo_api.cli import database

        database.resync(database.with_running_database(settings))
        typer.echo("Clients start over with their next request for changes.", err=True)


@app.command()
def purge() -> None:
    """Purge the expired tasks and keys of all users.

    It deletes tasks that were deleted RETENTION_DAYS ago, and idempotency keys. Run it daily with
    the settings of `serve`. Requests purge only the rows of their own user, so the rows of users
    who do not return would stay.
    """
    with _command_settings() as settings:
        from todo_api.cli import database

        purged = database.purge(database.with_running_database(settings))
        typer.echo(f"Purged {purged.tasks} deleted tasks and {purged.keys} idempotency keys.")


@app.command()
def token(
    user: UserId,
    hours: Annotated[
        float, typer.Option(min=0.01, max=8760, help="How long the token is valid.")
    ] = 24,
) -> None:
    """Print a development token for a user of `todo-api dev`."""
    with _command_settings() as settings:
        from todo_api.cli.tokens import development_token

        typer.echo(development_token(settings, user, timedelta(hours=hours)))


@app.command()
def seed(user: UserId) -> None:
    """Create example tasks for a user."""
    with _command_settings() as settings:
        from todo_api.cli.seed import seed_user

        count = seed_user(settings, user)
        typer.echo(f"{user} has {count} more tasks.", err=True)


@app.command()
def users(
    after: Annotated[
        str, typer.Option(metavar="USER", help="List the users whose ids follow this one.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many users.")] = 100,
) -> None:
    """List the users, and how many tasks each has.

    The users are in the order of their ids. Each line has the numbers of tasks and of deleted
    tasks, and the days on which the user first and last created a task.
    """
    with _command_settings() as settings:
        from todo_api.cli import users as user_commands

        for line in user_commands.list_users(settings, after=after, limit=limit):
            typer.echo(_printable(line))


@app.command()
def export(
    user: UserId,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="JSON, iCalendar or CSV.")
    ] = ExportFormat.JSON,
) -> None:
    """Write everything that is stored about a user to standard output.

    JSON has everything, and the user can import it. Redirect it to a file.
    """
    with _command_settings() as settings:
        from todo_api.cli import users as user_commands

        output = typer.get_binary_stream("stdout")
        user_commands.export_user(settings, user, file_format.value, output)


@app.command()
def erase(
    user: UserId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Erase everything that is stored about a user, for good.

    It asks for the user's id as confirmation. Logs and backups are not changed.
    """
    with _command_settings() as settings:
        from todo_api.cli import users as user_commands

        if not yes:
            _confirm(user, user_commands.count_tasks(settings, user))
        count = user_commands.erase_user(settings, user)
        typer.echo(_printable(f"Erased {count} tasks of {user}, deleted ones included."), err=True)


def _confirm(user: str, count: int) -> None:
    """Ask for the user's id on a terminal. Ends the program if another text is typed."""
    if not sys.stdin.isatty():
        typer.echo("todo-api: standard input is no terminal to confirm on: add --yes", err=True)
        raise typer.Exit(1)
    question = f"{count} tasks of {user} will be erased for good. Type the user's id to confirm"
    if typer.prompt(_printable(question), err=True) != user:
        typer.echo("todo-api: this is another id: nothing was erased", err=True)
        raise typer.Exit(1)


@app.command()
def doctor(
    token: Annotated[
        str | None,
        typer.Option(help="A token to verify; `-` reads it from standard input.", metavar="JWT"),
    ] = None,
) -> None:
    """Check settings and servers, and say how to fix problems.

    Each line is `ok`, `info`, `warn` or `BAD`. The exit code is 0 if `serve` would work, and 1 if
    a line is `BAD`. `pbpaste | todo-api doctor --token -` says why a token is rejected.
    """
    with _expected_errors():
        from todo_api.cli.doctor import run_checks

        results = run_checks(
            sys.stdin.read().strip() if token == "-" else token,  # noqa: S105 - not a secret
        )
    for result in results:
        typer.echo(_printable(str(result)))
    raise typer.Exit(1 if any(result.is_failure for result in results) else 0)


def _printable(text: str) -> str:
    """Text for standard output: a character that its encoding does not have is escaped."""
    encoding = sys.stdout.encoding
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _command_settings() -> Iterator["Settings"]:
    """The settings of a command, which ends with a message if a setting is invalid."""
    with _expected_errors():
        from todo_api.server.settings import Settings

        yield Settings.read()


@contextmanager
def _expected_errors() -> Iterator[None]:
    """End the program with the message of an expected error.

    Such a message says what to change, so there is no traceback.
    """
    from todo_api.server.environment import prepare_environment
    from todo_api.server.settings import ConfigurationError
    from todo_domain.errors import TodoError

    try:
        prepare_environment()
        yield
    except (ConfigurationError, TodoError) as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            typer.echo(f"todo-api: {line}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _exit(number: int, _: object) -> NoReturn:
    """End the program in order, so that ``dev`` stops its database."""
    raise SystemExit(128 + number)
