"""The composition root: settings in, adapters chosen, app out. Nothing else knows the adapters.

Any ASGI server can serve it: ``uvicorn --factory todo_api.main:app``.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pydantic import SecretStr
from starlette.types import ASGIApp

from todo_adapters.embedded_postgres.server import (
    EmbeddedPostgresError,
    embedded_postgres,
    running_url,
)
from todo_adapters.jose.development import DevelopmentIssuer
from todo_adapters.jose.diagnosis import count_algorithms, explain_rejection
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import JwksTokenVerifier, SharedSecretTokenVerifier
from todo_adapters.postgres import schema
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.diagnosis import (
    DatabaseReport,
    explain,
    inspect_database,
    translate_errors,
)
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, DatabaseUrlError, parse_database_url
from todo_adapters.rate_limits import LimitsRateLimiter
from todo_api.app import create_app
from todo_api.dependencies import Adapters, ReadinessCheck
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER
from todo_api.server.logs import configure_logs
from todo_api.server.proxies import behind_proxies
from todo_api.server.settings import ConfigurationError, JwksAuth, Settings
from todo_domain.errors import DatabaseUnavailable, TokenRejected
from todo_domain.ports import TaskRepository, TokenVerifier


def app() -> ASGIApp:
    """The production app as the environment configures it.

    Raises ConfigurationError, also for what would be unsafe.
    """
    settings = Settings.read()
    validate_for_production(settings)
    return build_app(settings)


def build_app(settings: Settings, *, development: bool = False) -> ASGIApp:
    """The app for these settings. Only ``development`` may believe the development issuer.

    Raises ConfigurationError.
    """
    configure_logs(settings.log_level, settings.log_format)
    address = database_url(settings)
    auth = _auth(settings, development=development)
    limiter = _rate_limiter(settings)

    @asynccontextmanager
    async def open_adapters() -> AsyncIterator[Adapters]:
        async with AsyncExitStack() as opened:
            database = Database(
                address, pool_size=settings.database_pool_size, rls_enabled=_rls_enabled(settings)
            )
            opened.push_async_callback(database.close)
            opened.push_async_callback(auth.close)
            opened.push_async_callback(limiter.close)
            yield Adapters(
                tasks=PostgresTaskRepository(
                    database, retention=timedelta(days=settings.retention_days)
                ),
                tokens=auth.tokens,
                limiter=limiter,
                gauges={
                    "todo_database_connections_in_use": (
                        "Database connections that statements hold.",
                        database.connections_in_use,
                    ),
                    "todo_auth_keys": ("Keys that verify tokens.", auth.key_count),
                    "todo_rate_limit_shared": (
                        "Workers that count in Redis, and not each for itself.",
                        limiter.is_shared,
                    ),
                },
                checks={"database": database.check, "auth_keys": auth.check},
            )

    served = create_app(
        open_adapters,
        cors_origins=settings.cors_origins,
        concurrency=settings.max_concurrent_requests,
        shows_metrics=settings.metrics == "on",
    )
    trusted = settings.forwarded_allow_ips
    return behind_proxies(served, trusted) if trusted else served


@asynccontextmanager
async def open_tasks(settings: Settings) -> AsyncIterator[TaskRepository]:
    """The task repository alone, for commands that need no HTTP. Raises ConfigurationError."""
    address = database_url(settings)
    database = Database(address, pool_size=1, rls_enabled=_rls_enabled(settings))
    try:
        yield PostgresTaskRepository(database)
    except DatabaseUnavailable as failure:
        raise ConfigurationError(f"database: {explain(failure)}") from None
    finally:
        await database.close()


@contextmanager
def embedded_database(settings: Settings, report: Callable[[str], None]) -> Iterator[Settings]:
    """These settings with the address of a running database: the embedded one if none is set.

    Raises ConfigurationError.
    """
    if settings.database_url is not None:
        yield settings
        return
    try:
        with embedded_postgres(_database_dir(settings), report=report) as url:
            yield settings.model_copy(update={"database_url": SecretStr(url)})
    except EmbeddedPostgresError as failure:
        raise ConfigurationError(str(failure)) from failure


def with_running_database(settings: Settings) -> Settings:
    """These settings, with the embedded database of a running ``todo-api dev`` if none is set.

    Raises ConfigurationError.
    """
    try:
        url = None if settings.database_url else running_url(_database_dir(settings))
    except EmbeddedPostgresError as failure:
        raise ConfigurationError(str(failure)) from failure
    return settings.model_copy(update={"database_url": SecretStr(url)}) if url else settings


async def migrate(settings: Settings) -> tuple[str | None, str]:
    """Bring the database to the newest schema; return its revisions before and after."""
    with translate_errors():
        return await schema.migrate(
            database_url(settings, direct=True),
            rls_enabled=_rls_enabled(settings),
            role=database_url(settings).url.username,
        )


async def rls_problem(settings: Settings) -> str | None:
    """What keeps row-level security from being as DATABASE_RLS says; None if nothing does."""
    with translate_errors():
        return await schema.rls_problem(database_url(settings), rls_enabled=_rls_enabled(settings))


async def schema_revisions(settings: Settings) -> tuple[str | None, str]:
    """The schema version that the database has, and the one that this code needs."""
    with translate_errors():
        return await schema.current_revision(database_url(settings)), schema.wanted_revision()


def is_behind(revision: str | None) -> bool:
    """Whether a database with this schema version lacks a migration that this code needs."""
    return schema.is_behind(revision)


def validate_for_production(settings: Settings) -> None:
    """Raise ConfigurationError where production must not run as development may.

    What is missing is named at once, and not one thing at each start.
    """
    missing = []
    for required in (partial(database_url, settings), settings.auth):
        try:
            required()
        except ConfigurationError as failure:
            missing.append(str(failure))
    if missing:
        raise ConfigurationError("\n".join(missing))
    address, network = database_url(settings), settings.database_network
    is_public = address.is_public if network == "auto" else network == "public"
    if is_public and address.tls != "verified":
        raise ConfigurationError(
            f"DATABASE_URL: {address.display_name} is reached over a public network, but the "
            "server's certificate is not verified: write sslmode=verify-full (and sslrootcert=FILE "
            "for a private CA), or set DATABASE_NETWORK=private if the network is private"
        )


async def diagnose_database(settings: Settings) -> DatabaseReport:
    """Inspect the database. Raises DatabaseUnavailable, which explains why it cannot be used."""
    return await inspect_database(database_url(settings))


async def key_algorithms(auth: JwksAuth) -> Counter[str]:
    """How many keys of each algorithm the auth server has. Raises AuthKeysUnavailable."""
    return await count_algorithms(auth.url)


async def check_tokens(settings: Settings) -> None:
    """Raise ConfigurationError if the settings for tokens are unsafe."""
    await _auth(settings, development=True).close()


async def explain_token(settings: Settings, token: str) -> str:
    """Whom a token speaks for. Raises ConfigurationError saying why it is refused, and the mend."""
    auth = _auth(settings, development=True)
    try:
        actor = await auth.tokens.verify(token, datetime.now(UTC))
    except TokenRejected as rejected:
        issuer, audience = settings.issuer_and_audience
        why = explain_rejection(rejected.reason, token, issuer=issuer, audience=audience)
        raise ConfigurationError(f"it is refused ({rejected.code}): {why}") from None
    finally:
        await auth.close()
    end = f"{actor.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"it is accepted and speaks for {actor.user_id} until {end}"


def database_url(settings: Settings, *, direct: bool = False) -> DatabaseUrl:
    """Where the database is, past any pooler if ``direct``. Raises ConfigurationError."""
    name, url = "DATABASE_URL", settings.database_url
    if direct and settings.database_url_direct:
        name, url = "DATABASE_URL_DIRECT", settings.database_url_direct
    if url is None:
        raise ConfigurationError(
            "DATABASE_URL is missing: set it to the connection string that Neon's console shows "
            "(or start an embedded database with `todo-api dev`)"
        )
    try:
        return parse_database_url(url.get_secret_value())
    except DatabaseUrlError as refused:
        raise ConfigurationError(f"{name}: {refused}") from None


def development_token(settings: Settings, user_id: str, lifetime: timedelta) -> str:
    """A token of the development issuer. Raises ConfigurationError where it is not believed."""
    if settings.configures_auth:
        raise ConfigurationError(
            "this service believes the auth server of BETTER_AUTH_URL, AUTH_JWKS_URL or "
            "AUTH_MODE alone: get a token there, or unset them to use development tokens"
        )
    with _configuration_failures(settings):
        issuer = DevelopmentIssuer(settings.data_dir / "issuer")
        return issuer.token(user_id, datetime.now(UTC), lifetime=lifetime)


def _rate_limiter(settings: Settings) -> LimitsRateLimiter:
    policies = {
        PER_USER: settings.rate_limit,
        PER_FAILING_ADDRESS: settings.rate_limit_auth_failures,
    }
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    try:
        return LimitsRateLimiter(policies, redis_url)
    except ValueError as unreadable:
        raise ConfigurationError(str(unreadable)) from None


async def _nothing() -> None:
    """There is nothing to check or to close."""


@dataclass(frozen=True, slots=True)
class _Auth:
    tokens: TokenVerifier
    check: ReadinessCheck = _nothing
    close: Callable[[], Awaitable[None]] = _nothing
    key_count: Callable[[], int] = lambda: 1


def _auth(settings: Settings, *, development: bool) -> _Auth:
    with _configuration_failures(settings):
        if development and not settings.configures_auth:
            issuer = DevelopmentIssuer(settings.data_dir / "issuer")
            return _Auth(issuer.verifier())
        chosen = settings.auth()
        if isinstance(chosen, JwksAuth):
            keys = RemoteKeySet(chosen.url, chosen.algorithms)
            verifier = JwksTokenVerifier(keys, issuer=chosen.issuer, audience=chosen.audience)
            return _Auth(verifier, keys.check, keys.aclose, lambda: len(keys.algorithms()))
        secret = chosen.secret.get_secret_value()
        shared = SharedSecretTokenVerifier(secret, issuer=chosen.issuer, audience=chosen.audience)
        return _Auth(shared)


@contextmanager
def _configuration_failures(settings: Settings) -> Iterator[None]:
    """Settings that the adapters of tokens will not work with, as ConfigurationError."""
    try:
        yield
    except ValueError as refused:
        raise ConfigurationError(str(refused)) from None
    except OSError as failure:
        raise ConfigurationError(
            f"DATA_DIR: {settings.data_dir} cannot hold the development key ({failure.strerror})"
        ) from None


def _rls_enabled(settings: Settings) -> bool:
    return settings.database_rls == "on"


def _database_dir(settings: Settings) -> Path:
    return settings.data_dir / "postgres"
