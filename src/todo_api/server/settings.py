"""The settings: environment variables, or lines of a ``.env`` file.

``docs/operations.md`` describes every variable. This module checks the values; ``todo-api doctor``
checks whether the servers that they name work.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AnyUrl, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PORT_MAX: Final = 65535

_DOTENV: Final = ".env"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\\\s]+", re.IGNORECASE)

_SEGMENT: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._~!$&'()*+,;=:@-]+", re.ASCII)


class ConfigurationError(Exception):
    """The service cannot run with these settings. Each line says what to change."""


@contextmanager
def translate_value_errors(prefix: str = "") -> Iterator[None]:
    """Turn the ValueError of an adapter that rejects a setting into ConfigurationError."""
    try:
        yield
    except ValueError as error:
        raise ConfigurationError(f"{prefix}{error}") from None


@dataclass(frozen=True, slots=True)
class JwksAuth:
    """Tokens are verified with the keys that the auth server publishes at ``url``."""

    url: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SharedSecretAuth:
    """HS256 tokens are verified with the secret with which the frontend signs them."""

    secret: SecretStr
    issuer: str | None
    audience: str | None


class Settings(BaseSettings):
    """The values of all variables. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_file=_DOTENV,
        env_file_encoding="utf-8-sig",  # some Windows editors start the file with a BOM
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = None
    database_url_direct: SecretStr | None = None
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 10
    database_rls: Literal["on", "off"] = "off"
    database_batches: Literal["statement", "transaction"] = "statement"
    database_network: Literal["auto", "private", "public"] = "auto"
    better_auth_url: str | None = None
    auth_jwks_url: str | None = None
    auth_issuer: str | None = None
    auth_audience: str | None = None
    auth_algorithms: Annotated[tuple[str, ...], NoDecode] = ("EdDSA", "ES256", "RS256")
    auth_mode: Literal["jwks", "shared-secret"] = "jwks"
    better_auth_secret: SecretStr | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    root_path: str = ""
    redis_url: SecretStr | None = None
    rate_limit: str = "600/minute"
    rate_limit_auth_failures: str = "60/minute"
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 1000
    keep_alive_timeout: Annotated[int, Field(ge=1, le=3600)] = 125
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = ()
    metrics: Literal["on", "off"] | int = "on"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=PORT_MAX)] = 8000
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] | None = None
    data_dir: Path = Path(".todo")

    @field_validator("auth_algorithms", "cors_origins", "forwarded_allow_ips", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("better_auth_url", "auth_jwks_url")
    @classmethod
    def _check_http_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_http_url(value):
            raise ValueError("must be an http:// or https:// URL")
        return value

    @field_validator("better_auth_url")
    @classmethod
    def _normalize_auth_origin(cls, value: str | None) -> str | None:
        """The origin as Better Auth writes it into tokens: lower case, without the default port."""
        if value is None:
            return None
        url = AnyUrl(value)
        if url.path not in {None, "/"} or url.query or url.fragment:
            raise ValueError("must be the origin alone, like https://app.example.com")
        return _origin(url)

    @field_validator("cors_origins")
    @classmethod
    def _normalize_cors_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """The origins as browsers and native shells send them in ``Origin``."""
        with suppress(ValueError):  # of AnyUrl
            if all(map(_ORIGIN.fullmatch, origins)):
                return tuple(_origin(AnyUrl(origin)) for origin in origins)
        raise ValueError("must be exact origins like https://app.example.com, without * or path")

    @field_validator("root_path")
    @classmethod
    def _normalize_root_path(cls, value: str) -> str:
        """The path prefix with a slash before each segment and none at the end."""
        segments = value.strip().strip("/").split("/") if value.strip(" /") else []
        if all(map(_SEGMENT.fullmatch, segments)):
            return "".join(f"/{segment}" for segment in segments)
        raise ValueError("must be the path alone, like /backend, without host, dots or query")

    @field_validator("metrics", mode="before")
    @classmethod
    def _check_metrics(cls, value: object) -> object:
        if value in {"on", "off"}:
            return value
        if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,4}", value, re.ASCII):
            port = int(value)
            if port <= PORT_MAX:
                return port
        raise ValueError("must be on, off or a port")

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_networks(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Reject ``*``: if every peer were trusted, any client could choose its own address."""
        for address in addresses:
            try:
                ip_network(address)
            except ValueError:
                raise ValueError(
                    "must be addresses or networks like 10.0.0.0/8, without *"
                ) from None
        return addresses

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = {"redis", "rediss"}
        if value is not None and urlsplit(value.get_secret_value()).scheme not in schemes:
            raise ValueError("must be a redis:// or rediss:// URL")
        return value

    @classmethod
    def read(cls) -> Self:
        """The settings of this process. Raises ConfigurationError; it names each bad variable."""
        try:
            return cls()
        except ValidationError as invalid:
            lines = [
                f"{'.'.join(map(str, error['loc'])).upper()} {_message(error['msg'])}"
                for error in invalid.errors(include_input=False, include_url=False)
            ]
            raise ConfigurationError("\n".join(lines)) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{_DOTENV} is not UTF-8 text: save it as UTF-8") from None
        except OSError as error:
            raise ConfigurationError(f"{_DOTENV} cannot be read: {error.strerror}") from None

    @property
    def configures_auth(self) -> bool:
        """Whether a key set or a shared secret is configured."""
        return self.auth_mode == "shared-secret" or bool(self.better_auth_url or self.auth_jwks_url)

    @property
    def issuer_and_audience(self) -> tuple[str | None, str | None]:
        """The required issuer and audience of tokens. Better Auth uses its origin for both."""
        return self.auth_issuer or self.better_auth_url, self.auth_audience or self.better_auth_url

    @property
    def address(self) -> str:
        """Host and port, as in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def rls_enabled(self) -> bool:
        return self.database_rls == "on"

    @property
    def postgres_dir(self) -> Path:
        """The directory of the embedded PostgreSQL."""
        return self.data_dir / "postgres"

    @property
    def issuer_dir(self) -> Path:
        """The directory of the development issuer's key."""
        return self.data_dir / "issuer"

    def auth(self) -> JwksAuth | SharedSecretAuth:
        """How to verify tokens. Raises ConfigurationError if settings are missing or conflict."""
        return self._shared_secret() if self.auth_mode == "shared-secret" else self._jwks()

    def _jwks(self) -> JwksAuth:
        origin = self.better_auth_url
        url = self.auth_jwks_url or (origin and f"{origin}/api/auth/jwks")
        issuer, audience = self.issuer_and_audience
        if not (url and issuer and audience):
            raise ConfigurationError(
                "BETTER_AUTH_URL is missing: set it to your auth server's origin, such as "
                "https://app.example.com (or AUTH_JWKS_URL, AUTH_ISSUER and AUTH_AUDIENCE)"
            )
        return JwksAuth(url, issuer, audience, self.auth_algorithms)

    def _shared_secret(self) -> SharedSecretAuth:
        secret = self.better_auth_secret
        if self.auth_jwks_url:
            raise ConfigurationError(
                "AUTH_MODE=shared-secret and AUTH_JWKS_URL exclude each other: unset one of them"
            )
        if secret is None:
            raise ConfigurationError(
                "BETTER_AUTH_SECRET is missing: AUTH_MODE=shared-secret needs the secret with "
                "which your frontend signs its tokens"
            )
        return SharedSecretAuth(secret, self.auth_issuer, self.auth_audience)


def _is_http_url(text: str) -> bool:
    """Whether the text is an http or https URL without credentials."""
    try:
        url = AnyUrl(text)
    except ValueError:
        return False
    return url.scheme in _DEFAULT_PORTS and url.username is None and url.password is None


def _origin(url: AnyUrl) -> str:
    """The URL's origin as browsers write it (RFC 6454, section 6.2)."""
    has_port = url.port not in {None, _DEFAULT_PORTS.get(url.scheme)}
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if has_port else "")


def _message(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")
