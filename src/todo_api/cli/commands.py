"""The command line: each command does one thing; what goes wrong is a sentence on stderr."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Annotated, Final

import typer

from todo_api import main
from todo_api.cli import banner, doctor, seed
from todo_api.server import granian
from todo_api.server.logs import silence_logs
from todo_api.server.settings import ConfigurationError, Settings
from todo_domain.errors import TodoError

app = typer.Typer(
    epilog=(
        "Begin with `todo-api dev`: it needs nothing. In production: `migrate`, `doctor`, `serve`, "
        "with DATABASE_URL and BETTER_AUTH_URL set. Every setting is an environment variable, or a "
        "line in the file .env here."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

TOKEN_LIFETIME: Final = timedelta(days=1)
UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id, such as alice.")]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"todo-api {version('todo-api')}")
        raise typer.Exit


@app.callback()
def todo_api(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """The backend of a to-do application: Better Auth tokens in, tasks on PostgreSQL."""


@app.command()
def dev() -> None:
    """Run for development: embedded PostgreSQL, development tokens.

    Each yields to its variable: DATABASE_URL, BETTER_AUTH_URL and the rest.
    """
    with _plain_failures():
        settings = Settings.read()
        if not settings.cors_origins:
            settings = settings.model_copy(update={"cors_origins": ("http://localhost:3000",)})
        granian.check_port_free(settings.host, settings.port)
        asyncio.run(main.check_tokens(settings))
        with main.embedded_database(settings, _say) as with_database:
            _migrate(with_database)
            banner.when_ready(settings, _development_tokens(settings))
            load = partial(main.build_app, with_database, development=True)
            granian.serve(with_database, load, ends_with_terminal=True)


@app.command()
def serve() -> None:
    """Run in production.

    Needs DATABASE_URL, and BETTER_AUTH_URL or another way to verify tokens. Refuses to start,
    saying why, when something is missing or unsafe. SIGTERM ends it well; SIGHUP renews workers.
    """
    with _plain_failures():
        settings = Settings.read()
        main.validate_for_production(settings)
        main.build_app(settings)  # fails here, in a sentence, and not later in each worker
        granian.check_port_free(settings.host, settings.port)
        asyncio.run(_require_database_as_wanted(settings))
        granian.serve(settings, partial(main.build_app, settings))


@app.command()
def migrate() -> None:
    """Bring the database's schema to the newest version.

    Before serving a new version; it may be repeated, and run by several deploys at once.
    """
    with _plain_failures():
        _migrate(main.with_running_database(Settings.read()))


@app.command()
def token(
    user: UserId,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="How long it is valid.")] = 24,
) -> None:
    """Print a development token for a user of `todo-api dev`."""
    with _plain_failures():
        print(main.development_token(Settings.read(), user, timedelta(hours=hours)))  # noqa: T201


@app.command("seed")
def seed_user(user: UserId) -> None:
    """Give a user some lifelike tasks."""
    with _plain_failures():
        settings = main.with_running_database(Settings.read())
        count = asyncio.run(_seed(settings, user))
        _say(f"{user} has {count} more tasks.")


@app.command("doctor")
def examine(
    token: Annotated[
        str | None,
        typer.Option(help="A token to judge too; `-` reads it from standard input.", metavar="JWT"),
    ] = None,
) -> None:
    """Check settings, database and auth server; say how to mend each.

    A token that is refused: `pbpaste | todo-api doctor --token -` tells why. Exits with 1 if
    something is wrong.
    """
    with _plain_failures():
        settings = main.with_running_database(Settings.read())
        pasted = sys.stdin.read().strip() if token == "-" else token  # noqa: S105 - no secret
        findings = asyncio.run(doctor.examine(settings, pasted))
    for finding in findings:
        typer.echo(str(finding))
    raise typer.Exit(0 if all(finding.is_fine for finding in findings) else 1)


async def _seed(settings: Settings, user: str) -> int:
    async with main.open_tasks(settings) as tasks:
        return await seed.seed_tasks(tasks, user, datetime.now(UTC))


async def _require_database_as_wanted(settings: Settings) -> None:
    """Refuse a database that is behind, or not walled; one that is away may come back anytime."""
    try:
        revision, wanted = await main.schema_revisions(settings)
        weakness = await main.rls_problem(settings)
    except TodoError as failure:
        _say(f"todo-api: {failure}; serving all the same, and answering 503 until it is back")
        return
    if main.is_behind(revision):
        raise ConfigurationError(
            f"the database has schema version {revision or 'none'}, but {wanted} is needed: "
            "run `todo-api migrate`"
        )
    if weakness:
        raise ConfigurationError(weakness)


def _migrate(settings: Settings) -> None:
    before, after = asyncio.run(main.migrate(settings))
    if before != after:
        _say(f"The database is now at schema version {after}.")


def _development_tokens(settings: Settings) -> Callable[[str], str] | None:
    if settings.configures_auth:
        return None
    return lambda user: main.development_token(settings, user, TOKEN_LIFETIME)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


@contextmanager
def _plain_failures() -> Iterator[None]:
    """End the program with the sentences of a failure that its user can mend, and no traceback."""
    silence_logs()
    try:
        yield
    except (ConfigurationError, TodoError) as failure:
        for line in str(failure).splitlines() or [type(failure).__name__]:
            typer.echo(f"todo-api: {line}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
