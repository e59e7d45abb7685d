"""``todo-api dev``: the service with an embedded PostgreSQL and development tokens."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import typer

from todo_api.cli import banner, database
from todo_api.cli.tokens import development_token
from todo_api.main import TOKEN_LIFETIME, authentication, build_app
from todo_api.server import granian
from todo_api.server.logs import silence_logs
from todo_api.server.settings import Settings

CORS_ORIGINS: Final = ("http://localhost:3000",)


def run_dev(settings: Settings, *, migrates: bool) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of the terminal. Raises ConfigurationError.

    The database of DATABASE_URL is only changed with ``migrates``.
    """
    silence_logs()
    if not settings.cors_origins:
        settings = settings.model_copy(update={"cors_origins": CORS_ORIGINS})
    granian.check_port_free(settings.host, settings.port)
    authentication(settings, development=True)  # raises before the database is started
    with database.embedded_database(settings, partial(typer.echo, err=True)) as with_database:
        if migrates or settings.database_url is None:
            database.migrate(with_database, reports_no_change=False)
        else:
            asyncio.run(database.check_schema(with_database, "todo-api dev --migrate"))
        load_app = partial(build_app, with_database, development=True)
        print_banner = partial(banner.print_banner, settings, _token_maker(settings))
        granian.serve(with_database, load_app, print_banner, stop_on_sighup=True)


def _token_maker(settings: Settings) -> Callable[[str], str] | None:
    if settings.configures_auth:
        return None
    return lambda user: development_token(settings, user, TOKEN_LIFETIME)
