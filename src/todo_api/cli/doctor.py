"""``todo-api doctor``: check settings and servers, and say how to fix each problem."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from todo_adapters.jose.diagnosis import count_algorithms, explain_rejection
from todo_adapters.postgres.diagnosis import inspect_database
from todo_api.cli.database import check_schema, with_running_database
from todo_api.main import authentication, database_url
from todo_api.server.logs import silence_logs
from todo_api.server.settings import (
    ConfigurationError,
    JwksAuth,
    Settings,
    translate_value_errors,
)
from todo_domain.errors import TodoError, TokenRejected

CLOCK_TOLERANCE: Final = timedelta(seconds=10)

Check = Callable[[Settings], Awaitable[str]]  # returns what it found; raises what to fix


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found, or what to fix."""

    name: str
    is_passed: bool
    message: str

    def __str__(self) -> str:
        return f"{'ok ' if self.is_passed else 'BAD'}  {self.name}: {self.message}"


def run_checks(settings: Settings, token: str | None = None) -> Sequence[CheckResult]:
    """Run all checks, the most important first; verify the token if there is one.

    Raises ConfigurationError.
    """
    checks: dict[str, Check] = {
        "database": _database,
        "schema": _schema,
        "clock": _clock,
        "tokens": _tokens,
        "CORS": _cors,
    }
    if token is not None:
        checks["your token"] = partial(_token, token=token)
    silence_logs()
    return asyncio.run(_run(checks, with_running_database(settings)))


async def _run(checks: dict[str, Check], settings: Settings) -> Sequence[CheckResult]:
    return [await _result(name, check, settings) for name, check in checks.items()]


async def _result(name: str, check: Check, settings: Settings) -> CheckResult:
    try:
        return CheckResult(name, is_passed=True, message=await check(settings))
    except (ConfigurationError, TodoError) as error:
        return CheckResult(name, is_passed=False, message=str(error).removeprefix("database: "))


async def _database(settings: Settings) -> str:
    url = database_url(settings)
    found = await inspect_database(url)
    if found.is_standby:
        raise ConfigurationError(
            f"{url.display_name} is a read-only standby: use the host of the primary"
        )
    path = "through a transaction pooler" if url.via_pooler else "directly"
    milliseconds = found.round_trip / timedelta(milliseconds=1)
    return (
        f"connected to {url.display_name} {path} as {found.role}: PostgreSQL {found.version}, "
        f"TLS {url.tls}, {milliseconds:.1f} ms per round trip (most requests need one)"
    )


async def _schema(settings: Settings) -> str:
    version = await check_schema(settings)
    return f"version {version}, row-level security {settings.database_rls}"


async def _clock(settings: Settings) -> str:
    ahead = (await inspect_database(database_url(settings))).clock_ahead
    if abs(ahead) > CLOCK_TOLERANCE:
        raise ConfigurationError(
            f"the database's clock differs from this machine's by {ahead.total_seconds():+.0f} s, "
            "so expiry and timestamps are wrong: synchronise both clocks with NTP"
        )
    return "agrees with the database's clock"


async def _tokens(settings: Settings) -> str:
    if not settings.configures_auth:
        return "development tokens are accepted; `serve` needs BETTER_AUTH_URL"
    auth = settings.auth()
    if not isinstance(auth, JwksAuth):
        authentication(settings)  # raises if the secret is weak
        return "HS256 tokens signed with BETTER_AUTH_SECRET are accepted"
    with translate_value_errors():
        found = await count_algorithms(auth.url)
    keys = ", ".join(f"{count} {algorithm}" for algorithm, count in sorted(found.items()))
    if not found.keys() & set(auth.algorithms):
        raise ConfigurationError(
            f"AUTH_ALGORITHMS accepts none of the keys in the key set ({keys}): "
            f"set AUTH_ALGORITHMS={','.join(sorted(found))}"
        )
    return f"tokens of {auth.issuer} are accepted; its key set has {keys}"


async def _cors(settings: Settings) -> str:
    if not settings.cors_origins:
        return "CORS_ORIGINS is not set, so browsers cannot call from other origins"
    return f"browsers may call from {', '.join(settings.cors_origins)}"


async def _token(settings: Settings, token: str) -> str:
    auth = authentication(settings, development=True)
    try:
        actor = await auth.tokens.verify(token, datetime.now(UTC))
    except TokenRejected as rejected:
        issuer, audience = settings.issuer_and_audience
        why = explain_rejection(rejected.reason, token, issuer=issuer, audience=audience)
        raise ConfigurationError(f"rejected ({rejected.code}): {why}") from None
    finally:
        await auth.close()
    return f"accepted for user {actor.user_id} until {actor.expires_at:%Y-%m-%d %H:%M} UTC"
