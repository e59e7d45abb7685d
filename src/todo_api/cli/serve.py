"""``todo-api serve``: the service in production."""

import asyncio
from functools import partial
from importlib.metadata import version

import structlog
import typer

from todo_api.cli.database import check_schema, log_encoding_problem
from todo_api.main import (
    build_app,
    database_url,
    serves_streams,
    validate_for_production,
)
from todo_api.server import granian
from todo_api.server.settings import Settings
from todo_domain.errors import TodoError

_log = structlog.get_logger()


def run_serve(settings: Settings) -> None:
    """Serve until SIGTERM. Raises ConfigurationError if a setting is missing or unsafe."""
    validate_for_production(settings)
    build_app(settings)  # raises here, with a message, and not later in each worker
    granian.check_port_free(settings.host, settings.port)
    asyncio.run(_check_database(settings))
    granian.serve(settings, partial(build_app, settings), partial(_log_start, settings))


def _log_start(settings: Settings) -> None:
    issuer, _ = settings.issuer_and_audience
    _log.info(
        "service.started",
        version=version("todo-api"),
        address=settings.address,
        workers=settings.workers,
        database=database_url(settings).display_name,
        issuer=issuer,
        origins=settings.cors_origins,
    )
    if not serves_streams(settings):
        _log.warning("streams.unavailable", reason="several WORKERS need REDIS_URL")


async def _check_database(settings: Settings) -> None:
    """Raise ConfigurationError for an unsuitable schema. An unavailable database is only reported.

    It may become available at any time.
    """
    try:
        await check_schema(settings)
        await log_encoding_problem(settings)
    except TodoError as error:
        typer.echo(
            f"todo-api: {error}; starting anyway: requests get 503 until the database is available",
            err=True,
        )
