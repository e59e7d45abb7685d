"""Parses database URLs as people paste them.

SQLAlchemy's ``make_url`` splits the URL. This module adds libpq's options and verified TLS, and
refuses what asyncpg cannot honour. docs/decisions/0010-database-url.md has the reasons.
"""

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from getpass import getuser
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import unquote

from sqlalchemy import URL, make_url

from todo_adapters.postgres.hosts import is_local, is_public, parse_ip

Tls = Literal["none", "unverified", "verified", "local"]

_FORM: Final = "postgresql://USER:PASSWORD@HOST/DATABASE"
_DEFAULT_PORT: Final = 5432
_POOLER_PORTS: Final = (6432, 6543)  # PgBouncer's default; Supabase's transaction mode
_POOLER_HOST: Final = re.compile(r"^([^.]*)-pooler(\.|$)")  # Neon's
_NEON_DOMAINS: Final = (".neon.tech", ".postgres.vercel-storage.com")  # Vercel resold Neon

_SCHEME: Final = re.compile(r"postgres(?:ql)?(?:\+\w+)?", re.IGNORECASE)
_UNSAFE: Final = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]|%(?![0-9A-Fa-f]{2})|%00")
# What make_url splits correctly. Only credentials may contain "@": the last one ends them.
_SPLITTABLE: Final = re.compile(
    r"(?:[^/?#]*@)?(?:\[[^\[\]/?#@]*\]|[^\[\]:/?#@]*)(?::[1-9][0-9]{0,4})?(?:/[^/?#@]*)?"
    r"(?:\?(?:[^=&#@]+=[^&#@]*|&)*)?"
)
_PLACEHOLDER: Final = re.compile(r"[*•]+|\[.*\]|<.*>")
_HOST_NAME: Final = re.compile(r"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)
_OPTION_NAME: Final = re.compile(r"[a-z]\w{0,39}", re.ASCII | re.IGNORECASE)
_ENDPOINT: Final = re.compile(r"(?:endpoint|project)=[\w-]+", re.ASCII)

_MODES: Final = ("disable", "require", "verify-ca", "verify-full")  # from lax to strict
_NODE_MODES: Final = {"false": "disable", "no-verify": "require", "true": "verify-full"}
_SUPPORTED_OPTION: Final = re.compile(
    r"""(?:application_name|connect_timeout|host|port|sslrootcert)=.*
    | channel_binding=(?:disable|prefer|require) | pgbouncer=(?:true|false)
    | (?:ssl|sslmode)=(?:disable|require|verify-ca|verify-full|false|no-verify|true)
    | gssencmode=(?:disable|prefer) | sslnegotiation=postgres | target_session_attrs=any
    # Without effect here: options of Prisma, Supabase, Vercel, SQLAlchemy, node-postgres and libpq.
    | (?:connection_limit|max_(?:idle_)?connection_lifetime|pool_timeout|schema|socket_timeout)=.*
    | (?:single_use_connections|supa|workaround|(?:prepared_)?statement_cache_size)=.*
    | (?:uselibpqcompat|keepalives(?:_count|_idle|_interval)?)=.*""",
    re.VERBOSE,
)
_HINTS: Final = {
    "options": "poolers refuse it; remove it and use ALTER ROLE … SET …",
    "sslmode": "write verify-full, verify-ca, require or disable; the others allow plain text",
}
# asyncpg reads the variables PGSSLNEGOTIATION, PGTARGETSESSIONATTRS and PGGSSLIB without these.
_WITHOUT_ENVIRONMENT: Final[Mapping[str, object]] = {
    "direct_tls": False,
    "target_session_attrs": "any",
    "gsslib": "gssapi",
}
_PASSWORD_LINE: Final = re.compile(r"$|#|(?:.*?(?<!\\):){4}")
_MAY_BE_SECRET: Final = ("password", "sslpassword", "user")


class DatabaseUrlError(ValueError):
    """Says what is wrong with a database URL and what to write, without repeating a value."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """A database and how to connect to it.

    ``via_pooler`` is true for a transaction pooler: the first label of the host ends in
    ``-pooler``, the port is 6432 or 6543, or the URL has ``pgbouncer=true``.
    """

    url: URL
    ssl_context: ssl.SSLContext | None
    via_pooler: bool
    application_name: str | None
    connect_timeout: int | None  # seconds

    @property
    def tls(self) -> Tls:
        """``none`` is plain text over a network, ``local`` plain text inside this machine."""
        if self.ssl_context is None:
            return "local" if is_local(self._host) else "none"
        return "verified" if self.ssl_context.verify_mode else "unverified"

    @property
    def connect_args(self) -> dict[str, object]:
        """The arguments of ``asyncpg.connect`` that are not in ``url``."""
        arguments: dict[str, object] = {"ssl": self.ssl_context or False, **_WITHOUT_ENVIRONMENT}
        if self.via_pooler:
            arguments["statement_cache_size"] = 0  # poolers share server-side statement names
        if self.application_name:
            arguments["server_settings"] = {"application_name": self.application_name}
        if self.connect_timeout:
            arguments["timeout"] = self.connect_timeout
        return arguments

    @property
    def display_name(self) -> str:
        """Host and database, for logs."""
        host = f"[{self._host}]" if parse_ip(self._host) and ":" in self._host else self._host
        port = "" if self.url.port == _DEFAULT_PORT else f":{self.url.port}"
        return f"{host}{port}/{self.url.database}"

    @property
    def is_public(self) -> bool:
        """Whether the connection may cross the internet, by the name or address of the host."""
        return is_public(self._host)

    @property
    def is_direct(self) -> bool:
        """Whether the host shows that there is no transaction pooler: Neon's, without -pooler."""
        return self._host.endswith(_NEON_DOMAINS) and not self.via_pooler

    @property
    def _host(self) -> str:
        return self.url.host or str(self.url.query["host"])

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.display_name})"

    def direct(self) -> Self:
        """The server behind Neon's pooler, for migrations. Other URLs are returned unchanged."""
        if not (self.via_pooler and self._host.endswith(_NEON_DOMAINS)):
            return self
        host = _POOLER_HOST.sub(r"\1\2", self._host)
        return replace(self, url=self.url.set(host=host), via_pooler=False)


def parse_database_url(text: str) -> DatabaseUrl:
    """Parse a pasted URL with at least a host and a database. Raises DatabaseUrlError.

    asyncpg looks for a missing user or password where libpq does (``PGUSER``, ``.pgpass``, …).
    """
    parts = _split(text.strip().strip("\"'`").strip())
    host = _host(str(parts.query.get("host") or unquote(parts.host or "")))
    options = _options(parts, is_neon=host.endswith(_NEON_DOMAINS))
    port = _number("port", options.get("port") or str(parts.port or _DEFAULT_PORT), 1, 65535)
    timeout = _number("connect_timeout", options.get("connect_timeout", "0"), 0, 86400)
    if not (parts.database and parts.database.isprintable()):
        raise DatabaseUrlError(f"The database URL has no name of a database: write {_FORM}.")
    is_socket = host.startswith("/")
    if not parts.username:
        _check_own_name()
    if parts.password is None:
        _check_password_file()
    url = parts.set(
        drivername="postgresql+asyncpg",
        host="" if is_socket else host,
        port=port,
        query={"host": host} if is_socket else {},
    )
    return DatabaseUrl(
        url,
        _ssl_context(_tls_mode(host, options), options.get("sslrootcert")),
        via_pooler=port in _POOLER_PORTS
        or bool(_POOLER_HOST.match(host))
        or options.get("pgbouncer") == "true",
        application_name=options.get("application_name"),
        connect_timeout=timeout or None,
    )


def _check_own_name() -> None:
    """Without a user, asyncpg takes PGUSER or the name of this process's user."""
    try:
        os.environ.get("PGUSER") or getuser()
    except (KeyError, OSError):
        raise DatabaseUrlError(
            f"The database URL has no user, and this process's user has no name: write {_FORM}."
        ) from None


def _check_password_file() -> None:
    """Without a password, asyncpg reads this file, and a malformed one is a bare ValueError."""
    with suppress(OSError, RuntimeError):
        path = Path(os.environ.get("PGPASSFILE") or Path("~/.pgpass").expanduser())
        if "PGPASSWORD" in os.environ or not path.is_file():
            return
        with suppress(UnicodeDecodeError):
            lines = [line.strip() for line in path.read_text().splitlines()]
            if all(map(_PASSWORD_LINE.match, lines)):
                return
        raise DatabaseUrlError(
            "The password file (PGPASSFILE or ~/.pgpass) has a line that is not "
            "HOST:PORT:DATABASE:USER:PASSWORD: correct it, or write the password in the URL."
        )


def _split(text: str) -> URL:
    scheme, _, rest = text.partition("://")
    if not _SCHEME.fullmatch(scheme):
        raise DatabaseUrlError(
            "The database URL does not start with postgresql://: write only the URL of a "
            f"PostgreSQL database, without psql, export or the name of a variable: {_FORM}."
        )
    if _UNSAFE.search(rest) or unquote(rest, errors="ignore") != unquote(rest):
        raise DatabaseUrlError(
            'The database URL contains white space, a control character or a "%" that does not '
            "start a percent-encoded character: write a space as %20, and % as %25."
        )
    if not _SPLITTABLE.fullmatch(rest):
        raise DatabaseUrlError(
            "The database URL cannot be split into its parts: write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE, an IPv6 address in "
            "brackets, and in user, password and values @ as %40, / as %2F, ? as %3F, # as %23."
        )
    # make_url ends a password at its first "@", and reads "+" in an option as a space.
    credentials, at, location = rest.replace("+", "%2B").rpartition("@")
    if _PLACEHOLDER.fullmatch(credentials.partition(":")[2]):
        raise DatabaseUrlError("The password is a placeholder: write the real one.")
    rest = f"{credentials.replace('@', '%40')}{at}{location}"
    return make_url(f"postgresql://{rest}", keep_blank_values=True)


def _options(parts: URL, *, is_neon: bool) -> Mapping[str, str]:
    """The options by name.

    An unencoded "&" in a secret makes options of the rest of the secret. An option that may hold a
    secret is therefore refused before any other option is named in a message.
    """
    options = {}
    for name in sorted(parts.query, key=lambda name: name not in _MAY_BE_SECRET):
        value = parts.query[name]
        if not isinstance(value, str):
            raise DatabaseUrlError("The database URL has an option twice: write it once.")
        # Neon's endpoint is for clients without SNI. asyncpg sends SNI.
        if name == "options" and is_neon and _ENDPOINT.fullmatch(value):
            continue
        if not _SUPPORTED_OPTION.fullmatch(f"{name}={value}"):
            named = f"option {name}" if _OPTION_NAME.fullmatch(name) else "name of an option"
            hint = _HINTS.get(name, f"remove it, and write {_FORM}")
            raise DatabaseUrlError(f"The {named} is not supported like this: {hint}.")
        options[name] = value
    return options


def _host(host: str) -> str:
    if host.isprintable() and (host.startswith("/") or parse_ip(host)):
        return host
    if _HOST_NAME.fullmatch(host):
        return host.lower().removesuffix(".")
    raise DatabaseUrlError(
        "The database URL has no valid host: write one name or address, or ?host=/DIRECTORY."
    )


def _number(name: str, text: str, lowest: int, highest: int) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and lowest <= int(text) <= highest:
        return int(text)
    raise DatabaseUrlError(f"The {name} is not a number from {lowest} to {highest}: write one.")


def _tls_mode(host: str, options: Mapping[str, str]) -> str:
    """The effective sslmode: the stricter of ``sslmode`` and node-postgres's ``ssl``.

    Without either, every host except loopback is verified. Neon has public certificates, so every
    mode verifies there. A CA file turns ``require`` into ``verify-ca``, as in libpq. ``verify-ca``
    with public CAs would accept every public certificate, so it becomes ``verify-full``.
    """
    is_neon, ca = host.endswith(_NEON_DOMAINS), options.get("sslrootcert")
    modes = [options[name] for name in ("sslmode", "ssl") if name in options]
    default = "disable" if is_local(host) and not ca else "verify-full"
    mode = max((_NODE_MODES.get(mode, mode) for mode in modes), key=_MODES.index, default=default)
    if mode == "disable" and is_neon:
        raise DatabaseUrlError("Neon refuses plain text: remove sslmode=disable from the URL.")
    if host.startswith("/"):
        mode = "disable"
    elif mode != "disable" and (is_neon or ca == "system" or (mode == "verify-ca" and not ca)):
        mode = "verify-full"
    elif mode == "require" and ca:
        mode = "verify-ca"
    if options.get("channel_binding") == "require" and mode != "verify-full":
        raise DatabaseUrlError("The option channel_binding=require needs sslmode=verify-full.")
    return mode


def _ssl_context(mode: str, ca: str | None) -> ssl.SSLContext | None:
    if mode == "disable":
        return None
    cafile = None if ca == "system" else ca or None
    if cafile:
        _check_certificates(cafile)
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise DatabaseUrlError(
            f"The file of SSLKEYLOGFILE cannot be written ({error.strerror}): correct or unset it."
        ) from None
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_certificates(path: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise DatabaseUrlError(
            f"The option sslrootcert is not a readable PEM file ({reason})."
        ) from None
