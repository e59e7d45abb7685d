"""What ``todo-api dev`` prints once it answers: where it is, and lines that work when pasted."""

import sys
import time
import urllib.error
import urllib.request
from threading import Thread
from typing import Final

from todo_api.settings import Settings

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
  Paste into another terminal to create a task and to list yours, as alice:

curl -s {origin}/api/tasks -H 'Content-Type: application/json' -d '{{"title": "Buy milk"}}' \
-H 'Authorization: Bearer {token}'
curl -s {origin}/api/tasks -H 'Authorization: Bearer {token}'

  A token for anybody else:    {program} token bob
  Some tasks to play with:     {program} seed alice
"""

_REAL_ISSUER: Final = """
  It believes the tokens of {issuer}: send what /api/auth/token answers there.
"""


def when_ready(settings: Settings, token: str | None) -> None:
    """Print the welcome as soon as the service is ready; returns at once."""
    Thread(target=_wait_and_print, args=(settings, token), daemon=True).start()


def _wait_and_print(settings: Settings, token: str | None) -> None:
    origin = f"http://{_shown_host(settings.host)}:{settings.port}"
    deadline = time.monotonic() + _PATIENCE
    while not _is_ready(origin) and time.monotonic() < deadline:
        time.sleep(0.05)
    sys.stderr.write(welcome(settings, origin, token))
    sys.stderr.flush()


def welcome(settings: Settings, origin: str, token: str | None) -> str:
    """The text for people, with a token for alice if this service issues its own."""
    issuer = settings.auth_issuer or settings.better_auth_url or "its frontend"
    tokens = (
        _DEVELOPMENT.format(origin=origin, token=token, program=sys.argv[0])
        if token
        else _REAL_ISSUER.format(issuer=issuer)
    )
    data = f"PostgreSQL in {settings.data_dir}, kept between runs"
    return _WELCOME.format(origin=origin, data=data, tokens=tokens)


def _shown_host(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - shown, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _is_ready(origin: str) -> bool:
    try:
        with urllib.request.urlopen(f"{origin}/health/ready", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:
        return False
