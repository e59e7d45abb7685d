"""``todo-api doctor``: check settings and servers, and say how to fix each problem."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from todo_adapters.jose.diagnosis import explain_rejection, inspect_key_set
from todo_adapters.postgres.diagnosis import inspect_database
from todo_adapters.rate_limits import inspect_redis
from todo_api.cli.database import check_schema, with_running_database
from todo_api.main import authentication, check_transport, database_url, rate_limiter
from todo_api.server import granian
from todo_api.server.logs import silence_logs
from todo_api.server.settings import (
    ConfigurationError,
    JwksAuth,
    Settings,
    translate_value_errors,
)
from todo_api.server.spelling import misspelled_variables
from todo_domain.errors import TodoError, TokenRejected

# A token is refused if its times differ more than the leeway of the verifier.
CLOCK_TOLERANCE: Final = timedelta(seconds=30)


class Level(StrEnum):
    """How serious a finding is. Only ``FAILURE`` prevents ``serve`` from working."""

    OK = "ok"
    INFO = "info"
    WARNING = "warn"
    FAILURE = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found: a fact, or a problem and how to fix it."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """A finding with the name of its check."""

    name: str
    finding: Finding

    @property
    def is_failure(self) -> bool:
        return self.finding.level is Level.FAILURE

    def __str__(self) -> str:
        return f"{self.finding.level:<4}  {self.name + ':':<12} {self.finding.message}"


ok, info, warning, failure = (partial(Finding, level) for level in Level)


@dataclass(slots=True)
class _Setup:
    """What is checked, and what later checks need to know.

    ``clocks`` says how far the clocks of other machines are ahead.
    """

    settings: Settings
    invalid: Mapping[str, str]
    is_development: bool
    has_usable_database: bool = False
    clocks: dict[str, timedelta] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Check:
    """A check of the variables with these prefixes. It does not run if one of them is invalid."""

    name: str
    run: Callable[[_Setup], AsyncIterator[Finding]]
    prefixes: tuple[str, ...] = ()


def run_checks(token: str | None = None) -> Sequence[Result]:
    """Run all checks, the most important first; verify the token if there is one.

    Raises ConfigurationError.
    """
    silence_logs()
    settings, invalid = Settings.read_valid()
    with_database = settings
    if "DATABASE_URL" not in invalid:
        with_database = with_running_database(settings)
    setup = _Setup(
        with_database,
        invalid,
        is_development=with_database is not settings,
    )
    checks = [
        _Check("settings", _settings),
        _Check("database", _database, ("DATABASE_",)),
        _Check("schema", _schema, ("DATABASE_",)),
        _Check("tokens", _tokens, ("AUTH_", "BETTER_AUTH_")),
        _Check("clock", _clock),
        _Check("rate limits", _rate_limits, ("RATE_", "REDIS_")),
        _Check("CORS", _cors, ("CORS_",)),
        _Check("server", _server, ("HOST", "PORT")),
        _Check("proxies", _proxies, ("FORWARDED_",)),
    ]
    if token is not None:
        checks.append(_Check("your token", partial(_token, token=token), ("AUTH_", "BETTER_AUTH_")))
    return asyncio.run(_run(checks, setup))


async def _run(checks: Sequence[_Check], setup: _Setup) -> Sequence[Result]:
    results = []
    for check in checks:
        if not any(name.startswith(check.prefixes) for name in setup.invalid if check.prefixes):
            results += [Result(check.name, finding) async for finding in _findings(check, setup)]
    return results


async def _findings(check: _Check, setup: _Setup) -> AsyncIterator[Finding]:
    """The findings of a check. An error that says what to fix ends it."""
    try:
        async for finding in check.run(setup):
            yield finding
    except (ConfigurationError, TodoError) as error:
        yield failure(_text(error))


def _text(error: Exception) -> str:
    return str(error).removeprefix("database: ")


async def _settings(setup: _Setup) -> AsyncIterator[Finding]:
    for problem in setup.invalid.values():
        yield failure(problem)
    if not setup.invalid:
        yield ok("every value is valid")
    for name, setting in misspelled_variables():
        yield warning(f"{name} has no effect: the name of the setting is {setting}")
    if setup.settings.log_level == "debug":
        yield warning("LOG_LEVEL=debug is for development: unset it in production")


async def _database(setup: _Setup) -> AsyncIterator[Finding]:
    url = database_url(setup.settings)
    try:
        report = await inspect_database(url)
    except TodoError as error:
        yield failure(f"{url.display_name}: {_text(error)}")
        return
    setup.clocks["the database's"] = report.clock_offset
    path = "through a transaction pooler" if report.via_pooler else "directly"
    milliseconds = report.round_trip / timedelta(milliseconds=1)
    yield ok(
        f"connected to {url.display_name} {path} as {report.role}: PostgreSQL {report.version}, "
        f"TLS {url.tls}, {milliseconds:.1f} ms per round trip (most requests need one)"
    )
    for problem in (*report.failures, *_transport_problem(setup)):
        yield failure(problem)
    for problem in report.warnings:
        yield warning(problem)
    if report.via_pooler and not url.via_pooler:
        yield warning(
            "there is a pooler that DATABASE_URL does not show: add pgbouncer=true to its options"
        )
    setup.has_usable_database = not report.failures


async def _schema(setup: _Setup) -> AsyncIterator[Finding]:
    if setup.has_usable_database:
        version = await check_schema(setup.settings)
        yield ok(f"version {version}, row-level security {setup.settings.database_rls}")


def _transport_problem(setup: _Setup) -> Iterator[str]:
    try:
        check_transport(setup.settings)
    except ConfigurationError as error:
        yield str(error)


async def _clock(setup: _Setup) -> AsyncIterator[Finding]:
    wrong = {name: offset for name, offset in setup.clocks.items() if abs(offset) > CLOCK_TOLERANCE}
    if wrong:
        differences = " and ".join(
            f"{name} clock by {-offset.total_seconds():+.0f} s" for name, offset in wrong.items()
        )
        yield failure(
            f"this machine's clock differs from {differences}, so tokens are refused: synchronise "
            "the clocks with NTP"
        )
    elif setup.clocks:
        yield ok(f"agrees with {' and '.join(setup.clocks)} clock")


async def _tokens(setup: _Setup) -> AsyncIterator[Finding]:
    settings = setup.settings
    if setup.is_development and not settings.configures_auth:
        yield warning("development tokens are accepted; `serve` needs BETTER_AUTH_URL")
        return
    auth = settings.auth()
    if not isinstance(auth, JwksAuth):
        authentication(settings)  # raises if the secret is weak
        yield ok("HS256 tokens signed with BETTER_AUTH_SECRET are accepted")
        secret = auth.secret.get_secret_value()
        if secret != secret.strip().strip("\"'"):
            yield warning(
                "BETTER_AUTH_SECRET starts or ends with a quote or white space: remove it, unless "
                "the frontend's secret has it too"
            )
        return
    await authentication(settings).close()  # raises if an algorithm is unknown
    for problem in _implausible(auth):
        yield warning(problem)
    with translate_value_errors():
        report = await inspect_key_set(auth.url)
    if report.clock_offset is not None:
        setup.clocks["the auth server's"] = report.clock_offset
    found = report.algorithms
    keys = ", ".join(f"{count} {algorithm}" for algorithm, count in sorted(found.items()))
    if not found.keys() & set(auth.algorithms):
        raise ConfigurationError(
            f"AUTH_ALGORITHMS accepts none of the keys in the key set ({keys}): "
            f"set AUTH_ALGORITHMS={','.join(sorted(found))}"
        )
    yield ok(f"tokens of {auth.issuer} are accepted; its key set has {keys}")


def _implausible(auth: JwksAuth) -> Iterator[str]:
    for name, value in (("AUTH_ISSUER", auth.issuer), ("AUTH_AUDIENCE", auth.audience)):
        if value.endswith("/") and urlsplit(value).scheme in {"http", "https"}:
            yield (
                f"{name} ends with a slash, which Better Auth's tokens do not have: write "
                f"{value.rstrip('/')}"
            )
    if _is_local(auth.issuer):
        yield (
            f"{auth.issuer} is on this machine: a deployed frontend needs its public origin in "
            "BETTER_AUTH_URL"
        )
    url = urlsplit(auth.url)
    if url.scheme == "http" and "." in (url.hostname or "") and not _is_local(auth.url):
        yield (
            f"the keys are fetched from {url.hostname} without TLS, so the network can replace "
            "them: write https://, unless the network is private"
        )


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _rate_limits(setup: _Setup) -> AsyncIterator[Finding]:
    settings = setup.settings
    await rate_limiter(settings).close()  # raises for an invalid notation
    limits = f"{settings.rate_limit} per user, {settings.rate_limit_auth_failures} failures"
    if settings.redis_url:
        with translate_value_errors("Redis cannot count the requests of all workers: "):
            version = await inspect_redis(settings.redis_url.get_secret_value())
        yield ok(f"{limits} per address, counted in Redis {version}")
    else:
        yield ok(f"{limits} per address, counted by each worker")


async def _cors(setup: _Setup) -> AsyncIterator[Finding]:
    origins = setup.settings.cors_origins
    if setup.is_development and not origins:
        yield ok("`dev` allows http://localhost:3000")
    elif not origins:
        yield warning(
            "CORS_ORIGINS is not set, so browsers block the requests of every frontend on another "
            "origin: set it to the frontend's origin, like https://app.example.com"
        )
    else:
        yield ok(f"browsers may call from {', '.join(origins)}")
    if (
        not setup.is_development
        and any(map(_is_local, origins))
        and not all(map(_is_local, origins))
    ):
        yield warning("CORS_ORIGINS has an origin on localhost: remove it in production")


async def _server(setup: _Setup) -> AsyncIterator[Finding]:
    host, port = setup.settings.host, setup.settings.port
    try:
        granian.check_port_free(host, port)
    except granian.PortInUse as error:
        yield info(f"{error} (or `serve` runs already)")
    else:
        yield ok(f"can listen on {host}, port {port}")


async def _proxies(setup: _Setup) -> AsyncIterator[Finding]:
    if trusted := setup.settings.forwarded_allow_ips:
        yield ok(f"X-Forwarded-For of {', '.join(trusted)} is used")
    else:
        yield info(
            "FORWARDED_ALLOW_IPS is not set: behind a reverse proxy, all clients have its address"
        )


async def _token(setup: _Setup, token: str) -> AsyncIterator[Finding]:
    settings = setup.settings
    auth = authentication(settings, development=setup.is_development)
    try:
        actor = await auth.tokens.verify(token, datetime.now(UTC))
    except TokenRejected as rejected:
        issuer, audience = settings.issuer_and_audience
        why = explain_rejection(rejected.reason, token, issuer=issuer, audience=audience)
        raise ConfigurationError(f"rejected ({rejected.code}): {why}") from None
    finally:
        await auth.close()
    yield ok(f"accepted for user {actor.user_id} until {actor.expires_at:%Y-%m-%d %H:%M} UTC")
