"""The composition root: settings → adapters → app.

Any ASGI server can serve the app: ``uvicorn --factory todo_api.main:app``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from typing import Final

import structlog
from starlette.types import ASGIApp

from todo_adapters.change_brokers import InProcessChangeBroker, RedisChangeBroker
from todo_adapters.jose.development import DevelopmentIssuer
from todo_adapters.jose.key_sets import RemoteKeySet
from todo_adapters.jose.verifiers import JwksTokenVerifier, SharedSecretTokenVerifier
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_adapters.rate_limits import LimitsRateLimiter, parse_policy
from todo_api.app import Limits, create_app
from todo_api.bearer_tokens import DevelopmentTokens
from todo_api.change_streams import ChangeBroker, StreamLimits
from todo_api.dependencies import Adapters, ReadinessCheck
from todo_api.http.event_streams import publisher
from todo_api.rate_limits import PER_FAILING_ADDRESS, PER_USER
from todo_api.server.logs import configure_logs
from todo_api.server.proxies import behind_proxies
from todo_api.server.settings import (
    ConfigurationError,
    JwksAuth,
    Settings,
    not_value,
    translate_value_errors,
)
from todo_domain.ports import TokenVerifier
from todo_domain.sync import Change

# The variable of each rate limit
RATE_LIMITS: Final = {PER_USER: "RATE_LIMIT", PER_FAILING_ADDRESS: "RATE_LIMIT_AUTH_FAILURES"}

_UNSAFE: Final = "tokens of the development issuer are accepted, also from other machines"
TOKEN_LIFETIME: Final = timedelta(days=1)  # of development tokens

_log = structlog.get_logger()


def app() -> ASGIApp:
    """The production app, configured by the environment.

    Raises ConfigurationError if a setting is missing, invalid or unsafe.
    """
    settings = Settings.read()
    validate_for_production(settings)
    return build_app(settings)


def build_app(settings: Settings, *, development: bool = False) -> ASGIApp:
    """The app for these settings. It accepts development tokens only with ``development``.

    Raises ConfigurationError.
    """
    configure_logs(settings.log_level, settings.log_format)
    open_adapters = partial(
        _open_adapters,
        settings,
        database_url(settings),
        authentication(settings, development=development),
        rate_limiter(settings),
    )
    api = create_app(
        open_adapters,
        cors_origins=settings.cors_origins,
        root_path=settings.root_path,
        shows_metrics=settings.metrics == "on",
        shows_docs=settings.docs == "on",
        development_tokens=_development_tokens(settings) if development else None,
        limits=Limits(
            concurrency=settings.max_concurrent_requests,
            streams=StreamLimits(per_worker=settings.max_streams),
        ),
    )
    proxies = settings.forwarded_allow_ips
    return behind_proxies(api, proxies) if proxies else api


def _development_tokens(settings: Settings) -> DevelopmentTokens | None:
    """What the service offers to users of the development issuer; None with an auth server."""
    if settings.configures_auth:
        return None
    if not settings.is_local:
        return DevelopmentTokens()
    issuer = DevelopmentIssuer(settings.issuer_dir)
    return DevelopmentTokens(lambda user: issuer.token(user, datetime.now(UTC), TOKEN_LIFETIME))


def validate_for_production(settings: Settings) -> None:
    """Raise ConfigurationError if a setting that production needs is missing or unsafe.

    The error names all missing settings, not only the first one.
    """
    missing = []
    for required in (partial(database_url, settings), settings.auth):
        try:
            required()
        except ConfigurationError as error:
            missing.append(str(error))
    if missing:
        raise ConfigurationError("\n".join(missing))
    check_transport(settings)


def check_transport(settings: Settings) -> None:
    """Raise ConfigurationError if a database in a public network has no verified TLS."""
    url, network = database_url(settings), settings.database_network
    is_public = url.is_public if network == "auto" else network == "public"
    if is_public and url.tls != "verified":
        raise ConfigurationError(
            f"DATABASE_URL: {url.display_name} is reached over a public network, but the server's "
            "certificate is not verified: write sslmode=verify-full (and sslrootcert=FILE for a "
            "private CA), or set DATABASE_NETWORK=private if the network is private"
        )


def database_url(settings: Settings, *, direct: bool = False) -> DatabaseUrl:
    """The database's URL; with ``direct``, the one that bypasses a pooler.

    Raises ConfigurationError.
    """
    name, url = "DATABASE_URL", settings.database_url
    if direct and settings.database_url_direct:
        name, url = "DATABASE_URL_DIRECT", settings.database_url_direct
    if url is None:
        raise ConfigurationError(
            "DATABASE_URL is missing: set it to the connection string that Neon's console shows "
            "(or start an embedded database with `todo-api dev`)"
        )
    with translate_value_errors(f"{name}: "):
        return parse_database_url(url.get_secret_value())


async def _no_op() -> None:
    """Check or close nothing."""


def _ignore(_change: Change) -> None:
    """A listener without a broker."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """The token verifier and the life cycle of its keys."""

    tokens: TokenVerifier
    check: ReadinessCheck = _no_op
    close: Callable[[], Awaitable[None]] = _no_op
    key_count: Callable[[], int] = lambda: 1


def authentication(settings: Settings, *, development: bool = False) -> Authentication:
    """The configured way to verify tokens. Raises ConfigurationError.

    With ``development`` and no configured way, development tokens are accepted. A warning is logged
    if other machines can reach the service.
    """
    with translate_value_errors():
        if development and not settings.configures_auth:
            issuer = DevelopmentIssuer(settings.issuer_dir)
            if not settings.is_local:
                _log.warning("config.unsafe", reason=_UNSAFE)
            return Authentication(
                JwksTokenVerifier(issuer, issuer=issuer.name, audience=issuer.name)
            )
        auth = settings.auth()
        if isinstance(auth, JwksAuth):
            keys = RemoteKeySet(auth.url, auth.algorithms)
            verifier = JwksTokenVerifier(keys, issuer=auth.issuer, audience=auth.audience)
            return Authentication(verifier, keys.check, keys.aclose, lambda: len(keys.algorithms()))
        secret = auth.secret.get_secret_value()
        return Authentication(
            SharedSecretTokenVerifier(secret, issuer=auth.issuer, audience=auth.audience)
        )


def rate_limiter(settings: Settings) -> LimitsRateLimiter:
    """The rate limiter, which connects when it is used. Raises ConfigurationError."""
    policies = {}
    for policy, variable in RATE_LIMITS.items():
        text = policies[policy] = getattr(settings, variable.lower())
        try:
            parse_policy(text)
        except ValueError as error:
            raise ConfigurationError(f"{variable} {error}{not_value(text)}") from None
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    with translate_value_errors():
        return LimitsRateLimiter(policies, redis_url)


def serves_streams(settings: Settings) -> bool:
    """Whether each worker sees the changes that the other workers make."""
    return settings.workers == 1 or settings.redis_url is not None


@asynccontextmanager
async def _open_broker(settings: Settings, url: DatabaseUrl) -> AsyncIterator[ChangeBroker | None]:
    if settings.redis_url is not None:
        # Services that share a Redis, but no database, must not see changes of each other.
        database = blake2b(url.display_name.encode(), digest_size=8).hexdigest()
        redis_url = settings.redis_url.get_secret_value()
        broker = RedisChangeBroker(redis_url, f"todo:changes:{database}")
        async with broker.connected():
            yield broker
    else:
        yield InProcessChangeBroker() if serves_streams(settings) else None


@asynccontextmanager
async def _open_adapters(
    settings: Settings, url: DatabaseUrl, auth: Authentication, limiter: LimitsRateLimiter
) -> AsyncIterator[Adapters]:
    async with AsyncExitStack() as stack:
        database = Database(
            url, pool_size=settings.database_pool_size, rls_enabled=settings.rls_enabled
        )
        for close in (database.close, auth.close, limiter.close):
            stack.push_async_callback(close)
        broker = await stack.enter_async_context(_open_broker(settings, url))
        retention = timedelta(days=settings.retention_days)
        yield Adapters(
            tasks=PostgresTaskRepository(
                database,
                retention=retention,
                batches_in_transactions=settings.database_batches == "transaction",
                on_change=publisher(broker) if broker else _ignore,
            ),
            tokens=auth.tokens,
            limiter=limiter,
            retention=retention,
            broker=broker,
            checks={"database": database.check, "auth_keys": auth.check},
            gauges={
                "todo_database_connections_in_use": (
                    "Database connections that are running a statement.",
                    database.connections_in_use,
                ),
                "todo_auth_keys": ("Keys that can verify tokens.", auth.key_count),
                "todo_rate_limit_shared": (
                    "Workers that count requests in Redis, not in their own memory.",
                    limiter.is_shared,
                ),
                "todo_streams_shared": (
                    "Workers that exchange changes through Redis.",
                    lambda: isinstance(broker, RedisChangeBroker) and broker.is_shared(),
                ),
            },
        )
