"""What ``todo-api dev`` prints once it answers: where it is, and lines that work when pasted."""

import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Final

from todo_api.server.settings import Settings

_PATIENCE: Final = 60.0  # seconds

_WELCOME: Final = """
  todo-api is ready

    API       {origin}/api/tasks
    Docs      {origin}/docs
    Data      {data}
{tokens}
  Stop it with Ctrl-C.
"""

_DEVELOPMENT: Final = """
  This line creates a task when pasted into another terminal:

curl -s {tasks} -H 'Content-Type: application/json' -d '{{"title": "Buy milk"}}' \
-H 'Authorization: Bearer {alice}'

  And these are a task's life, for alice and for bob, who sees nothing of it:

alice='Authorization: Bearer {alice}'
bob='Authorization: Bearer {bob}'
json='Content-Type: application/json'
curl -s {tasks} -H "$alice"
id=$(curl -s {tasks} -H "$alice" | sed 's/.*"id":"\\([^"]*\\)".*/\\1/')
curl -s {tasks}/$id -X PATCH -H "$alice" -H "$json" -d '{{"priority": "high"}}'
curl -s {tasks}/$id/complete -X PATCH -H "$alice"
curl -s {tasks}/$id -H "$bob"
curl -s {tasks}/$id -X DELETE -H "$alice"
curl -s {tasks} -H "$bob" -H "$json" -d '{{"title": "Read a book"}}'

  A token for anybody else:    {program} token carol
  Some tasks to play with:     {program} seed alice
"""

_REAL_ISSUER: Final = """
  It believes the tokens of {issuer}: send what /api/auth/token answers there.
"""


def when_ready(settings: Settings, token_for: Callable[[str], str] | None) -> None:
    """Print the welcome as soon as the service is ready; returns at once.

    ``token_for`` makes a development token for a user; None if this service believes real ones.
    """
    Thread(target=_wait_and_print, args=(settings, token_for), daemon=True).start()


def _wait_and_print(settings: Settings, token_for: Callable[[str], str] | None) -> None:
    origin = f"http://{_shown_host(settings.host)}:{settings.port}"
    deadline = time.monotonic() + _PATIENCE
    while not _is_up(origin):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    sys.stderr.write(_welcome(settings, origin, token_for))
    sys.stderr.flush()


def _welcome(settings: Settings, origin: str, token_for: Callable[[str], str] | None) -> str:
    if token_for:
        alice, bob = token_for("alice"), token_for("bob")
        tokens = _DEVELOPMENT.format(
            tasks=f"{origin}/api/tasks", alice=alice, bob=bob, program=_program()
        )
    else:
        issuer = settings.auth_issuer or settings.better_auth_url or "its frontend"
        tokens = _REAL_ISSUER.format(issuer=issuer)
    return _WELCOME.format(origin=origin, data=_data(settings), tokens=tokens)


def _program() -> str:
    """The program as its user can call it again: not every shell has it on its path."""
    path = Path(sys.argv[0])
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _data(settings: Settings) -> str:
    if settings.database_url is not None:
        return "the database of DATABASE_URL"
    return f"PostgreSQL in {settings.data_dir}, kept between runs"


def _shown_host(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - shown, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _is_up(origin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{origin}/health/live", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:
        return False
