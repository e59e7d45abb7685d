"""The banner of ``todo-api dev``: URLs, and commands to paste."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from todo_api.main import database_url
from todo_api.server import granian
from todo_api.server.settings import Settings

_BANNER: Final = """
  todo-api is ready

    API       {origin}/api/tasks
    Docs      {origin}/docs
    Data      {data}
{tokens}
  Stop it with Ctrl-C.
"""

_DEVELOPMENT_TOKENS: Final = """
  Paste this line into another terminal to create a task:

curl -sw '\\n' {tasks} -H 'Content-Type: application/json' -d '{{"title": "Buy milk"}}' \
-H 'Authorization: Bearer {alice}'

  Paste these lines to create, list, change, complete and delete another task; bob gets a 404:

alice='Authorization: Bearer {alice}'
bob='Authorization: Bearer {bob}'
json='Content-Type: application/json'
task=$(curl -s {tasks} -H "$alice" -H "$json" -d '{{"title": "Buy oats"}}')
id=$(printf '%s\\n' "$task" | sed 's/^{{"id":"\\([^"]*\\)".*/\\1/')
curl -sw '\\n' {tasks} -H "$alice"
curl -sw '\\n' {tasks}/$id -X PATCH -H "$alice" -H "$json" -d '{{"priority": "high"}}'
curl -sw '\\n' {tasks}/$id/complete -X PATCH -H "$alice"
curl -sw '\\n' {tasks}/$id -H "$bob"
curl -sw '\\n' {tasks}/$id -X DELETE -H "$alice"
curl -sw '\\n' {tasks} -H "$bob" -H "$json" -d '{{"title": "Read a book"}}'

  Token for another user:      {program} token carol
  Example tasks for alice:     {program} seed alice
"""

_AUTH_SERVER: Final = """
  Tokens of {issuer} are accepted: send the JWT that its /api/auth/token returns.
"""


def print_banner(settings: Settings, token_for: Callable[[str], str] | None) -> None:
    """Print the banner.

    ``token_for`` makes a development token for a user id; None if the service does not accept them.
    """
    host = granian.reachable_host(settings.host)
    origin = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    sys.stderr.write(_banner(settings, origin, token_for))
    sys.stderr.flush()


def _banner(settings: Settings, origin: str, token_for: Callable[[str], str] | None) -> str:
    if token_for:
        tokens = _DEVELOPMENT_TOKENS.format(
            tasks=f"{origin}/api/tasks",
            alice=token_for("alice"),
            bob=token_for("bob"),
            program=_program(),
        )
    else:
        issuer = settings.auth_issuer or settings.better_auth_url or "your frontend"
        tokens = _AUTH_SERVER.format(issuer=issuer)
    return _BANNER.format(origin=origin, data=_data(settings), tokens=tokens)


def _program() -> str:
    """The path of this program, relative to the working directory if possible.

    The name alone does not work where the virtual environment is not on the PATH.
    """
    path = Path(sys.argv[0])
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _data(settings: Settings) -> str:
    if settings.database_url is not None:
        return f"{database_url(settings).display_name}, from DATABASE_URL"
    return f"PostgreSQL in {settings.data_dir}, kept between runs"
