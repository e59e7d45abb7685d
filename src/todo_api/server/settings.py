"""The settings: environment variables, or lines of a ``.env`` file.

``docs/operations.md`` describes every variable. This module checks the values; ``todo-api doctor``
checks whether the servers that they name work.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AnyUrl,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PORT_MAX: Final = 65535

_DOTENV: Final = ".env"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\\\s]+", re.IGNORECASE)
_HOST_NAME: Final = re.compile(r"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)
_HOST_WITH_PORT: Final = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+):([0-9]{1,5})", re.IGNORECASE)
_REDIS_URL: Final = re.compile(
    r"rediss?://([^/?#@\s]*@)?(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?(/[0-9]*)?(\?[^#@\s]*)?",
    re.IGNORECASE | re.ASCII,
)
_QUOTES: Final = "\"'`"
_SHOWN_MAX: Final = 100  # characters; a longer value is not shown in an error message
# Credentials or a query in a URL, a word of 14 characters, or one of 6 with letters and digits.
_LIKE_A_SECRET: Final = re.compile(
    r"[@?#=]|[^.:/,;\s]{14}|(?=[^.:/,;\s]*[0-9])(?=[^.:/,;\s]*[a-z])[^.:/,;\s]{6}", re.IGNORECASE
)
# Other words for a value, as people write them.
_SYNONYMS: Final = {
    **dict.fromkeys(("1", "true", "yes", "enabled"), "on"),
    **dict.fromkeys(("0", "false", "no", "none", "disabled"), "off"),
}
_LEVELS: Final = {"warn": "warning", "err": "error"}

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


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


def _switch(text: object) -> object:
    lower = _lower(text)
    return _SYNONYMS.get(lower, lower) if isinstance(lower, str) else text


def _level(text: object) -> object:
    lower = _lower(text)
    return _LEVELS.get(lower, lower) if isinstance(lower, str) else text


def _mode(text: object) -> object:
    return text.lower().replace("_", "-") if isinstance(text, str) else text


def _split(text: object) -> object:
    """The items of a list: separated by commas, semicolons or white space, or a JSON array."""
    if not isinstance(text, str):
        return text
    if text.startswith("["):
        with suppress(ValueError):
            items = json.loads(text.replace("'", '"'))
            return tuple(str(item).strip() for item in items)
    parts = (part.strip(_QUOTES) for part in re.split(r"[,;\s]+", text))
    return tuple(part for part in parts if part)


_Switch = Annotated[Literal["on", "off"], BeforeValidator(_switch)]
_RateLimit = Annotated[str, BeforeValidator(_switch)]
_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


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
    """The values of all variables. An empty variable counts as unset.

    Outer white space and quotes are removed, since ``docker run --env-file`` keeps both. A secret
    is kept as it is, because the frontend signs with the same bytes.
    """

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
    database_rls: _Switch = "off"
    database_batches: Annotated[Literal["statement", "transaction"], BeforeValidator(_lower)] = (
        "statement"
    )
    database_network: Annotated[Literal["auto", "private", "public"], BeforeValidator(_lower)] = (
        "auto"
    )
    better_auth_url: str | None = None
    auth_jwks_url: str | None = None
    auth_issuer: str | None = None
    auth_audience: str | None = None
    auth_algorithms: _List = ("EdDSA", "ES256", "RS256")
    auth_mode: Annotated[Literal["jwks", "shared-secret"], BeforeValidator(_mode)] = "jwks"
    better_auth_secret: SecretStr | None = None
    cors_origins: _List = ()
    root_path: str = ""
    redis_url: SecretStr | None = None
    rate_limit: _RateLimit = "600/minute"
    rate_limit_auth_failures: _RateLimit = "60/minute"
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_streams: Annotated[int, Field(ge=1, le=100_000)] = 2000
    keep_alive_timeout: Annotated[int, Field(ge=1, le=3600)] = 125
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    forwarded_allow_ips: _List = ()
    metrics: Literal["on", "off"] | int = "on"
    docs: _Switch = "on"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=PORT_MAX)] = 8000
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_level)] = (
        "info"
    )
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(_lower)] = None
    data_dir: Path = Path(".todo")

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Mapping[str, object]) -> Mapping[str, object]:
        cleaned = {
            name: value if name == "better_auth_secret" else _unquote(value)
            for name, value in values.items()
        }
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("better_auth_url", "auth_jwks_url")
    @classmethod
    def _check_http_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_http_url(value):
            raise ValueError(
                "must be an http:// or https:// URL without user and password, like "
                "https://app.example.com"
            )
        return value

    @field_validator("better_auth_url")
    @classmethod
    def _normalize_auth_origin(cls, value: str | None) -> str | None:
        """The origin as Better Auth writes it into tokens: lower case, without the default port."""
        if value is None:
            return None
        url = AnyUrl(value)
        if url.path not in {None, "/"} or url.query or url.fragment:
            raise ValueError(f"must be the origin alone: write {_origin(url)}")
        return _origin(url)

    @field_validator("cors_origins")
    @classmethod
    def _normalize_cors_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """The origins as browsers and native shells send them in ``Origin``."""
        return tuple(map(_normalize_cors_origin, origins))

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
        switch = _switch(value)
        if switch in {"on", "off"}:
            return switch
        if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,4}", value, re.ASCII):
            port = int(value)
            if port <= PORT_MAX:
                return port
        raise ValueError(f"must be on, off or a port from 2 to {PORT_MAX}")

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_networks(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Reject ``*``: if every peer were trusted, any client could choose its own address."""
        for address in addresses:
            with suppress(ValueError):
                ip_network(address)
                continue
            raise ValueError(_explain_network(address))
        return addresses

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        address = host.removeprefix("[").removesuffix("]")
        with suppress(ValueError):
            return str(ip_address(address))
        if match := _HOST_WITH_PORT.fullmatch(host):
            raise ValueError(f"must have no port: write HOST={match[1]} and PORT={match[2]}")
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(
                "must be an address or a name: write 127.0.0.1, or 0.0.0.0 for all addresses"
            )
        return host

    @field_validator("data_dir")
    @classmethod
    def _expand_home(cls, path: Path) -> Path:
        """``~`` is the home directory, as in a shell, which expands no ``.env`` file."""
        try:
            return path.expanduser()
        except RuntimeError:
            raise ValueError("must not start with ~, because there is no home directory") from None

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _REDIS_URL.fullmatch(value.get_secret_value()):
            raise ValueError(
                "must be a redis:// or rediss:// URL, like redis://user:password@host:6379/0, with "
                "@ as %40, / as %2F, ? as %3F and # as %23 in the password"
            )
        return value

    @classmethod
    def read(cls) -> Self:
        """The settings of this process. Raises ConfigurationError; it names each bad variable."""
        settings, problems = cls.read_valid()
        if problems:
            raise ConfigurationError("\n".join(problems.values()))
        return settings

    @classmethod
    def read_valid(cls) -> tuple[Self, Mapping[str, str]]:
        """The settings, with defaults for invalid values, and what is wrong with each variable.

        Raises ConfigurationError if the ``.env`` file cannot be read.
        """
        if Path(_DOTENV).is_dir():  # Docker creates one for a bind mount of a missing file
            raise ConfigurationError(
                f"{_DOTENV} is a directory: replace it by a file, or remove it"
            )
        try:
            return cls(), {}
        except ValidationError as invalid:
            errors = {str(error["loc"][0]): error for error in invalid.errors(include_url=False)}
        except UnicodeDecodeError:
            raise ConfigurationError(f"{_DOTENV} is not UTF-8 text: save it as UTF-8") from None
        except OSError as error:
            raise ConfigurationError(f"{_DOTENV} cannot be read: {error.strerror}") from None
        defaults: dict[str, Any] = {name: cls.model_fields[name].default for name in errors}
        return cls(**defaults), {
            name.upper(): f"{name.upper()} {_message(name, error)}"
            for name, error in errors.items()
        }

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
    def is_local(self) -> bool:
        """Whether only this machine can reach the service, and no proxy is configured."""
        is_loopback = self.host == "localhost"
        with suppress(ValueError):
            is_loopback = ip_address(self.host).is_loopback
        return is_loopback and not self.forwarded_allow_ips

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


def _unquote(value: object) -> object:
    """Text without outer white space and without a pair of quotes around it."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1].strip()
    return text


def _is_http_url(text: str) -> bool:
    """Whether the text is an http or https URL without credentials."""
    try:
        url = AnyUrl(text)
    except ValueError:
        return False
    return url.scheme in _DEFAULT_PORTS and url.username is None and url.password is None


def _normalize_cors_origin(text: str) -> str:
    with suppress(ValueError):  # of AnyUrl
        if _ORIGIN.fullmatch(text.removesuffix("/")):
            return _origin(AnyUrl(text.removesuffix("/")))
    raise ValueError(_explain_cors_origin(text))


def _explain_cors_origin(text: str) -> str:
    with suppress(ValueError):  # of AnyUrl
        url = AnyUrl(text if "://" in text else f"https://{text}")
        if "*" not in text and "." in str(url.host) and _is_http_url(str(url)):
            return f"must be exact origins: write {_origin(url)}"
    return "must be exact origins like https://app.example.com, without * or path"


def _explain_network(address: str) -> str:
    try:
        network = ip_network(address, strict=False)
    except ValueError:
        return "must be addresses or networks like 10.0.0.0/8, without *, names and ports"
    return f"must be addresses or networks: write {network}"


def _origin(url: AnyUrl) -> str:
    """The URL's origin as browsers write it (RFC 6454, section 6.2)."""
    has_port = url.port not in {None, _DEFAULT_PORTS.get(url.scheme)}
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if has_port else "")


def _message(name: str, error: ErrorDetails) -> str:
    """What the variable must be, and its value."""
    text = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if bounds := _bounds(name):
        text = f"must be a number from {bounds[0]} to {bounds[1]}"
    is_secret = SecretStr in get_args(Settings.model_fields[name].annotation)
    return text if is_secret else text + not_value(error["input"])


def _bounds(name: str) -> Sequence[int]:
    """The lowest and the highest value of a number."""
    metadata = Settings.model_fields[name].metadata
    limits = (getattr(item, "ge", getattr(item, "le", None)) for item in metadata)
    return [limit for limit in limits if limit is not None]


def not_value(value: object) -> str:
    """``, not 'VALUE'`` for an error message; empty if the value may be or contain a secret.

    A secret can be in the wrong variable, so a value with a word like a password is not shown.
    """
    text = value if isinstance(value, str) else ""
    if not text or len(text) > _SHOWN_MAX or _LIKE_A_SECRET.search(text):
        return ""
    return f", not {text!r}"
