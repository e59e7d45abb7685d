"""The database URL, from what people paste to what SQLAlchemy's asyncpg dialect takes.

It is read as libpq reads it (PostgreSQL manual, "Connection URIs" and "Parameter Key Words"), with
differences on the safe side: TLS is verified unless the URL says otherwise, and what cannot be
honoured is refused. What is wrong is told by naming parts, options and known words, never by
repeating a value.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import unquote

from sqlalchemy import URL

Tls = Literal["none", "unverified", "verified", "local"]

_SHAPE: Final = "postgresql://USER:PASSWORD@HOST/DATABASE"
_DEFAULT_PORT: Final = 5432
_PORTS: Final = range(1, 65536)
_POOLER_PORTS: Final = (6432, 6543)  # PgBouncer's own; Supabase's transaction mode
_POOLER_SUFFIX: Final = "-pooler"
# Vercel's older databases are Neon's under a name of Vercel's.
_NEON_DOMAINS: Final = (".neon.tech", ".postgres.vercel-storage.com")

_ASSIGNMENT: Final = re.compile(r"(?:export\s+|set\s+)?\w+\s*=", re.IGNORECASE)
_SCHEME: Final = re.compile(r"(?P<name>[A-Za-z][\w+.:-]*)://(?P<rest>.*)", re.DOTALL)
_POSTGRES: Final = re.compile(r"postgres(?:ql)?(?:\+\w+)?", re.IGNORECASE)
_UNSAFE: Final = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")
# A host has no "@", so the last one ends the credentials, as in a browser's and in Node's reading.
_PARTS: Final = re.compile(
    r"(?:(?P<credentials>[^/?#]*)@)?(?P<server>[^/?#@]*)"
    r"(?:/(?P<database>[^/?#@]*))?(?:\?(?P<query>[^#@]*))?"
)
_SERVER: Final = re.compile(r"(?:\[(?P<ip>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[^:]*))?")
_HOST_NAME: Final = re.compile(r"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?", re.ASCII)
_PERCENT_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_PLACEHOLDER: Final = re.compile(r"[*•]+|\[.*\]|<.*>")
_OPTION_NAME: Final = re.compile(r"[a-z]\w{0,39}", re.ASCII | re.IGNORECASE)
_ENDPOINT: Final = re.compile(r"(?:endpoint|project)=[\w-]+", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,6}")

_FOREIGN: Final = {
    "http": "a web address",
    "https": "a web address",
    "jdbc:postgresql": "for Java",
    "mariadb": "for MariaDB",
    "mongodb": "for MongoDB",
    "mssql": "for SQL Server",
    "mysql": "for MySQL",
    "prisma": "for Prisma's own proxy, which does not speak PostgreSQL",
    "redis": "for Redis",
    "sqlite": "for SQLite",
}

_READ: Final = frozenset(
    {"application_name", "connect_timeout", "host", "options", "port"}
    | {"ssl", "sslmode", "sslrootcert"}
)
# Options for other clients and their pools: about the server they say nothing.
_DROPPED: Final = frozenset(
    {"connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pool_timeout"}
    | {"schema", "single_use_connections", "socket_timeout", "statement_cache_size"}  # Prisma
    | {"supa", "workaround"}  # Supabase, Vercel
    | {"prepared_statement_cache_size", "uselibpqcompat"}  # SQLAlchemy, node-postgres
    | {"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"}  # libpq
)
# Options of which asyncpg can keep the promise for these values only.
_LIMITED: Final = {
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer"),
    "pgbouncer": ("true", "false"),
    "sslnegotiation": ("postgres",),
    "target_session_attrs": ("any",),
}
_REFUSED: Final = {
    **dict.fromkeys(
        ("database", "dbname", "password", "user"),
        f"is out of place after the ?: write {_SHAPE}",
    ),
    **dict.fromkeys(
        ("sslcert", "sslidentity", "sslkey", "sslpassword"),
        "asks for a client certificate, which is not supported: use a password, and write the file "
        "with the server's CA, if it is that, as sslrootcert",
    ),
    "sslaccept": "is Prisma's alone: write sslmode=verify-full for strict, else sslmode=require",
}

_MODES: Final = ("disable", "require", "verify-ca", "verify-full")  # the stricter, the later
# What node-postgres has besides, in its ssl as in its sslmode.
_MODE_SYNONYMS: Final = {"true": "verify-full", "no-verify": "require", "false": "disable"}
_TLS: Final[Mapping[str, Tls]] = {
    "local": "local",
    "disable": "none",
    "require": "unverified",
    "verify-ca": "verified",
    "verify-full": "verified",
}


_PRIVATE_SUFFIXES: Final = (".internal", ".local", ".localdomain", ".lan", ".home.arpa", ".test")


class DatabaseUrlError(ValueError):
    """What is wrong with a database URL and what to write instead: a sentence with no secrets."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """Where the database is and how to connect: ``url`` for SQLAlchemy, the rest for asyncpg.

    ``via_pooler`` says that a transaction pooler stands in between: the host's first label ends in
    ``-pooler`` as Neon's do, the port is 6432 or 6543, or the URL has ``pgbouncer=true``. ``tls``
    says whether the server has to prove its name: ``none`` is plain text over a network, ``local``
    plain text that never leaves the machine.
    """

    url: URL
    connect_args: Mapping[str, object]
    via_pooler: bool
    tls: Tls

    @property
    def display_name(self) -> str:
        """Host and database, for logs."""
        host = self.url.host or str(self.url.query["host"])
        server = f"[{host}]" if _is_ip(host) and ":" in host else host
        port = "" if self.url.port == _DEFAULT_PORT else f":{self.url.port}"
        return f"{server}{port}/{self.url.database}"

    @property
    def is_public(self) -> bool:
        """Whether the way there may lead through networks that are not one's own.

        A private address is not, nor a name without a dot or under a suffix for private use.
        """
        host = self.url.host or ""
        if not host or _is_loopback(host):
            return False
        if _is_ip(host):
            return ip_address(host).is_global
        return "." in host and not host.endswith(_PRIVATE_SUFFIXES)

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.display_name})"

    def direct(self) -> "DatabaseUrl":
        """The server behind Neon's pooler, for migrations; any other address as it is."""
        host = self.url.host or ""
        if not (self.via_pooler and _is_neon(host)):
            return self
        endpoint, _, domain = host.partition(".")
        return replace(
            self,
            url=self.url.set(host=f"{endpoint.removesuffix(_POOLER_SUFFIX)}.{domain}"),
            connect_args={
                name: value
                for name, value in self.connect_args.items()
                if name != "statement_cache_size"
            },
            via_pooler=False,
        )


def parse_database_url(text: str) -> DatabaseUrl:
    """The address that a pasted URL means. Raises DatabaseUrlError.

    A user or password that is left out is looked for where libpq looks (``PGUSER``, ``PGPASSWORD``,
    ``.pgpass``); host and database are never guessed.
    """
    parts = _parts(_without_scheme(text.strip().strip("\"'`").strip()))
    user, password = _credentials(parts["credentials"])
    options = _options(parts["query"])
    host, port = _server(parts["server"], options)
    _refuse_startup_options(host, options)
    mode = _tls_mode(host, options)
    via_pooler = _is_pooled(host, port, options)
    on_socket = host.startswith("/")
    url = URL.create(
        "postgresql+asyncpg",
        user or None,
        password or None,
        None if on_socket else host,
        port,
        _database(parts["database"]),
        query={"host": host} if on_socket else {},
    )
    return DatabaseUrl(
        url, _connect_args(mode, options, via_pooler=via_pooler), via_pooler, _TLS[mode]
    )


def _without_scheme(text: str) -> str:
    if not text:
        raise DatabaseUrlError(f"The database URL is empty: write {_SHAPE}.")
    if "psql" in text.split():
        raise DatabaseUrlError(
            "The database URL is a psql command: write only what stands between its quotes, from "
            "postgresql:// on."
        )
    if _ASSIGNMENT.match(text):
        raise DatabaseUrlError(
            f'The database URL begins with a name and "=": write only the URL, {_SHAPE}.'
        )
    scheme = _SCHEME.fullmatch(text)
    if scheme is None or not _POSTGRES.fullmatch(scheme["name"]):
        raise DatabaseUrlError(_foreign("" if scheme is None else scheme["name"]))
    return scheme["rest"]


def _foreign(scheme: str) -> str:
    kind = _FOREIGN.get(scheme.lower().partition("+")[0])
    if kind is None:
        return f"The database URL does not begin with postgresql://: write {_SHAPE}."
    return f"The database URL is {kind}: write one for PostgreSQL, {_SHAPE}."


def _parts(rest: str) -> Mapping[str, str]:
    if _UNSAFE.search(rest):
        raise DatabaseUrlError(
            "The database URL has white space or a control character inside: write it in one "
            "piece, and a space that belongs there as %20."
        )
    parts = _PARTS.fullmatch(rest)
    if parts is None:
        raise DatabaseUrlError(
            'The database URL has an "@", "/" or "#" out of place, so that it cannot be read: '
            "inside user, password and options write @ as %40, / as %2F, ? as %3F and # as %23."
        )
    return parts.groupdict(default="")


def _credentials(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if _PLACEHOLDER.fullmatch(password):
        raise DatabaseUrlError(
            "The password is a placeholder: copy the URL again with the password shown, or write "
            "the password in its place."
        )
    return _decoded("user", user), _decoded("password", password)


def _options(query: str) -> Mapping[str, str]:
    """The options by name.

    An unencoded ``&`` makes further options of a secret's remainder. Therefore those that could
    hold a secret are refused before any other is named.
    """
    pairs = [_option(pair) for pair in query.split("&") if pair]
    for name, _ in pairs:
        if name in _REFUSED:
            raise DatabaseUrlError(f"The option {name} {_REFUSED[name]}.")
    for name, value in pairs:
        _refuse_unsupported(name, value)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise DatabaseUrlError("An option of the database URL is given twice: write it once.")
    return options


def _option(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise DatabaseUrlError(
            'An option of the database URL has no value: after the "?" write NAME=VALUE&…, and in '
            "a password ? as %3F."
        )
    return _decoded("name of an option", name), _decoded("value of an option", value)


def _refuse_unsupported(name: str, value: str) -> None:
    if name in _READ | _DROPPED:
        return
    if name not in _LIMITED:
        named = f"option {name}" if _OPTION_NAME.fullmatch(name) else "name of an option"
        raise DatabaseUrlError(f"The {named} is not known here: take the option out of the URL.")
    if value not in _LIMITED[name]:
        raise DatabaseUrlError(
            f"The option {name} cannot have that value here: write "
            f"{' or '.join(_LIMITED[name])}, or take the option out of the URL."
        )


def _server(text: str, options: Mapping[str, str]) -> tuple[str, int]:
    """Host, or the directory of the socket, and port; options go before, as in libpq."""
    _refuse_several(text)
    server = _SERVER.fullmatch(text)
    if server is None:
        raise DatabaseUrlError(
            "The host and port cannot be read: write HOST or HOST:PORT, with an IPv6 address in "
            "brackets."
        )
    host = options.get("host") or _decoded("host", server["ip"] or server["name"] or "")
    return _host(host), _port(options.get("port") or server["port"] or str(_DEFAULT_PORT))


def _refuse_several(hosts: str) -> None:
    if "," in hosts:
        raise DatabaseUrlError(
            "The database URL names several hosts, and a write must not reach a standby: write "
            "only the primary."
        )


def _host(host: str) -> str:
    _refuse_several(host)
    if not host:
        raise DatabaseUrlError(
            "The database URL names no host: write localhost, or ?host=/DIRECTORY for a socket."
        )
    if host.isprintable() and (host.startswith("/") or _is_ip(host)):
        return host
    if _HOST_NAME.fullmatch(host):
        return host.lower().removesuffix(".")
    raise DatabaseUrlError(
        "The host is neither a name nor an address: write letters, digits, hyphens and dots."
    )


def _port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) in _PORTS:
        return int(text)
    raise DatabaseUrlError(
        "The port is no number from 1 to 65535: write one, or if a password begins there, its / as "
        "%2F and its ? as %3F."
    )


def _database(text: str) -> str:
    database = _decoded("database", text)
    if not database:
        raise DatabaseUrlError(f"The database URL names no database: write {_SHAPE}.")
    if not database.isprintable():
        raise DatabaseUrlError("The database has a control character: write its name without.")
    return database


def _decoded(part: str, text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded or not _PERCENT_ENCODED.fullmatch(text):
        raise DatabaseUrlError(
            f'The {part} has a "%" that begins no percent-encoded UTF-8 character: write a "%" '
            "that belongs there as %25."
        )
    return decoded


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)


def _is_neon(host: str) -> bool:
    return host.endswith(_NEON_DOMAINS)


def _is_pooled(host: str, port: int, options: Mapping[str, str]) -> bool:
    return (
        host.partition(".")[0].endswith(_POOLER_SUFFIX)
        or port in _POOLER_PORTS
        or options.get("pgbouncer") == "true"
    )


def _refuse_startup_options(host: str, options: Mapping[str, str]) -> None:
    value = options.get("options")
    # Neon wants its endpoint there from clients that do not name the host in TLS; asyncpg does.
    if value is None or (_is_neon(host) and _ENDPOINT.fullmatch(value)):
        return
    raise DatabaseUrlError(
        "The option options does not pass through poolers: take it out of the URL, and make its "
        "settings the role's (ALTER ROLE … SET …)."
    )


def _tls_mode(host: str, options: Mapping[str, str]) -> str:
    """What counts in the end: one of libpq's modes, or ``local`` for no TLS on this machine.

    Without a mode every host but loopback is verified. Neon's certificates are publicly trusted, so
    that there every mode verifies. As in libpq a CA file turns ``require`` into ``verify-ca``; with
    the CAs of the whole web ``verify-ca`` would prove nothing and means ``verify-full``.
    """
    mode = _verifying(_asked_mode(options), host, options.get("sslrootcert"))
    if options.get("channel_binding") == "require" and mode != "verify-full":
        raise DatabaseUrlError(
            "The option channel_binding=require needs a verified server: write sslmode=verify-full "
            "too, or take channel_binding out of the URL."
        )
    return mode


def _verifying(mode: str | None, host: str, ca: str | None) -> str:
    if host.startswith("/"):
        return "local"
    if mode is None:
        mode = "disable" if _is_loopback(host) and not ca else "verify-full"
    if mode == "disable":
        return _plain(host)
    if _is_neon(host) or ca == "system":
        return "verify-full"
    if ca:
        return max(mode, "verify-ca", key=_MODES.index)
    return "verify-full" if mode == "verify-ca" else mode


def _plain(host: str) -> str:
    if _is_neon(host):
        raise DatabaseUrlError("Neon refuses plain text: take sslmode=disable out of the URL.")
    return "local" if _is_loopback(host) else "disable"


def _asked_mode(options: Mapping[str, str]) -> str | None:
    """The stricter of ``sslmode`` and node-postgres's ``ssl``, None when neither is given."""
    asked = [_mode(options[name]) for name in ("sslmode", "ssl") if name in options]
    return max(asked, key=_MODES.index, default=None)


def _mode(word: str) -> str:
    mode = _MODE_SYNONYMS.get(word, word)
    if mode in {"allow", "prefer"}:
        raise DatabaseUrlError(
            f"The option sslmode={mode} falls back to plain text in silence: write "
            "sslmode=verify-full, or disable if plain text is meant."
        )
    if mode not in _MODES:
        raise DatabaseUrlError(
            "The option sslmode cannot have that value: write disable, require, verify-ca or "
            "verify-full."
        )
    return mode


def _connect_args(
    mode: str, options: Mapping[str, str], *, via_pooler: bool
) -> Mapping[str, object]:
    arguments: dict[str, object] = {"ssl": _tls_context(mode, options.get("sslrootcert"))}
    if via_pooler:
        # A statement's name may mean another client's statement on the connection behind.
        arguments["statement_cache_size"] = 0
    if name := options.get("application_name"):
        arguments["server_settings"] = {"application_name": name}
    if seconds := _connect_timeout(options.get("connect_timeout", "0")):
        arguments["timeout"] = seconds
    return arguments


def _connect_timeout(text: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise DatabaseUrlError("The option connect_timeout is no number: write whole seconds.")
    return int(text)


def _tls_context(mode: str, ca: str | None) -> ssl.SSLContext | Literal[False]:
    if mode in {"local", "disable"}:
        return False
    try:
        context = ssl.create_default_context(cafile=None if ca == "system" else ca or None)
    except OSError:
        raise DatabaseUrlError(
            "The option sslrootcert names no readable file of PEM certificates: write the path of "
            "one, or system for the CAs that this machine trusts."
        ) from None
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context
