"""``todo-api doctor``: tries what the settings point at, and says how to mend what fails."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from todo_api import main
from todo_api.server.settings import ConfigurationError, JwksAuth, Settings
from todo_domain.errors import TodoError

CLOCK_TOLERANCE: Final = timedelta(seconds=10)

Look = Callable[[Settings], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One part that was looked at, and what was seen or has to be done."""

    part: str
    is_fine: bool
    seen: str

    def __str__(self) -> str:
        return f"{'ok ' if self.is_fine else 'BAD'}  {self.part}: {self.seen}"


async def examine(settings: Settings, token: str | None = None) -> Sequence[Finding]:
    """Look at every part, in the order in which it matters; at a pasted token too if given."""
    looks: dict[str, Look] = {
        "database": _database,
        "schema": _schema,
        "clock": _clock,
        "tokens": _tokens,
        "CORS": _cors,
    }
    if token is not None:
        looks["your token"] = partial(main.explain_token, token=token)
    return [await _finding(part, look, settings) for part, look in looks.items()]


async def _finding(part: str, look: Look, settings: Settings) -> Finding:
    try:
        return Finding(part, is_fine=True, seen=await look(settings))
    except (ConfigurationError, TodoError) as failure:
        return Finding(part, is_fine=False, seen=str(failure).removeprefix("database: "))


async def _database(settings: Settings) -> str:
    address = main.database_url(settings)
    seen = await main.diagnose_database(settings)
    if seen.is_standby:
        raise ConfigurationError(
            f"{address.display_name} is a read-only standby: use the primary's host"
        )
    way = "through a transaction pooler" if address.via_pooler else "directly"
    milliseconds = seen.round_trip / timedelta(milliseconds=1)
    return (
        f"{address.display_name} answers {way} as {seen.role}, PostgreSQL {seen.version}, "
        f"TLS {address.tls}, {milliseconds:.1f} ms a round trip (most requests take one)"
    )


async def _schema(settings: Settings) -> str:
    revision, wanted = await main.schema_revisions(settings)
    if main.is_behind(revision):
        raise ConfigurationError(
            f"at version {revision or 'none'}, but {wanted} is needed: run `todo-api migrate`"
        )
    if weakness := await main.rls_problem(settings):
        raise ConfigurationError(weakness)
    return (
        f"at version {revision}, and {wanted} is needed; row-level security {settings.database_rls}"
    )


async def _clock(settings: Settings) -> str:
    ahead = (await main.diagnose_database(settings)).clock_ahead
    if abs(ahead) > CLOCK_TOLERANCE:
        raise ConfigurationError(
            f"the database's is {ahead.total_seconds():+.0f} s from this machine's: tokens and "
            "times will be wrong; let both follow NTP"
        )
    return "agrees with the database's"


async def _tokens(settings: Settings) -> str:
    if not settings.configures_auth:
        return "those of the development issuer; `serve` needs BETTER_AUTH_URL"
    auth = settings.auth()
    if not isinstance(auth, JwksAuth):
        await main.check_tokens(settings)
        return "HS256 under BETTER_AUTH_SECRET"
    found = await main.key_algorithms(auth)
    counts = ", ".join(f"{number} {name}" for name, number in sorted(found.items()))
    if not found.keys() & set(auth.algorithms):
        raise ConfigurationError(
            f"the key set has {counts}, of which none is accepted: "
            f"set AUTH_ALGORITHMS={','.join(sorted(found))}"
        )
    return f"those of {auth.issuer}; its key set has {counts}"


async def _cors(settings: Settings) -> str:
    if not settings.cors_origins:
        return "CORS_ORIGINS is not set, so browsers on other origins are refused"
    return f"browsers may call from {', '.join(settings.cors_origins)}"
