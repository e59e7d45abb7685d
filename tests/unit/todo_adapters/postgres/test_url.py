"""What becomes of the database URLs that people paste."""

import inspect
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import asyncpg

from todo_adapters.postgres.url import DatabaseUrl, DatabaseUrlError, Tls, parse_database_url

DIALECT: Final[Any] = asyncpg.dialect

# Whoever reads "hush" in a message, a label or a representation has read a secret.
USER: Final = "ada-hush"
PASSWORD: Final = "npg_hush123"
LOGIN: Final = f"{USER}:{PASSWORD}"
NEON: Final = "ep-cool-lab-a1b2c3d4.eu-central-1.aws.neon.tech"
NEON_POOLER: Final = "ep-cool-lab-a1b2c3d4-pooler.eu-central-1.aws.neon.tech"
NEON_OPTIONS: Final = "sslmode=require&channel_binding=require"
VERCEL_POOLER: Final = "ep-old-sky-123456-pooler.us-east-1.postgres.vercel-storage.com"
SUPABASE_POOLER: Final = "aws-0-eu-west-1.pooler.supabase.com"
RENDER: Final = "dpg-abc123-a.oregon-postgres.render.com"
HEROKU: Final = "ec2-1-2-3-4.compute-1.amazonaws.com"
SHAPE: Final = "postgresql://USER:PASSWORD@HOST/DATABASE"


class Pasted(NamedTuple):
    """A text, and what it means: host and database, TLS, whether a pooler stands in between."""

    text: str
    label: str
    tls: Tls
    pooled: bool = False


ACCEPTED: Final = {
    "Neon, pooled": Pasted(
        f"postgresql://{LOGIN}@{NEON_POOLER}/neondb?{NEON_OPTIONS}",
        f"{NEON_POOLER}/neondb",
        "verified",
        pooled=True,
    ),
    "Neon, direct": Pasted(
        f"postgresql://{LOGIN}@{NEON}/neondb?{NEON_OPTIONS}", f"{NEON}/neondb", "verified"
    ),
    "Neon, without options": Pasted(
        f"postgres://{LOGIN}@{NEON}/neondb", f"{NEON}/neondb", "verified"
    ),
    "Neon, for a client without SNI": Pasted(
        f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=require&options=endpoint%3Dep-cool-lab-a1b2c3d4",
        f"{NEON}/neondb",
        "verified",
    ),
    "Neon, for Prisma": Pasted(
        f"postgresql://{LOGIN}@{NEON_POOLER}/neondb?sslmode=require&pgbouncer=true"
        "&connect_timeout=15&connection_limit=5&pool_timeout=15&schema=public",
        f"{NEON_POOLER}/neondb",
        "verified",
        pooled=True,
    ),
    "Neon, for node-postgres": Pasted(
        f"postgres://{LOGIN}@{NEON}/neondb?ssl=true&sslmode=require&uselibpqcompat=true",
        f"{NEON}/neondb",
        "verified",
    ),
    "Neon, for SQLAlchemy": Pasted(
        f"postgresql+asyncpg://{LOGIN}@{NEON_POOLER}/neondb?ssl=require"
        "&prepared_statement_cache_size=0",
        f"{NEON_POOLER}/neondb",
        "verified",
        pooled=True,
    ),
    "Neon, with a bundle of public CAs": Pasted(
        f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=verify-full&sslrootcert=system",
        f"{NEON}/neondb",
        "verified",
    ),
    "Neon, in capitals and with the port": Pasted(
        f"POSTGRESQL://{LOGIN}@{NEON.upper()}.:5432/neondb", f"{NEON}/neondb", "verified"
    ),
    "from a .env file, in quotes": Pasted(
        f' "postgresql://{LOGIN}@{NEON}/neondb"\n', f"{NEON}/neondb", "verified"
    ),
    "Vercel Postgres": Pasted(
        f"postgres://{LOGIN}@{VERCEL_POOLER}:5432/verceldb?pgbouncer=true&connect_timeout=15",
        f"{VERCEL_POOLER}/verceldb",
        "verified",
        pooled=True,
    ),
    "Supabase, through Vercel": Pasted(
        f"postgres://{LOGIN}@{SUPABASE_POOLER}:6543/postgres?sslmode=require&supa=base-pooler.x",
        f"{SUPABASE_POOLER}:6543/postgres",
        "unverified",
        pooled=True,
    ),
    "Supabase, session mode": Pasted(
        f"postgresql://{LOGIN}@{SUPABASE_POOLER}:5432/postgres",
        f"{SUPABASE_POOLER}/postgres",
        "verified",
    ),
    "Render": Pasted(f"postgresql://{LOGIN}@{RENDER}/todos", f"{RENDER}/todos", "verified"),
    "Heroku, whose certificates are self-signed": Pasted(
        f"postgres://{LOGIN}@{HEROKU}:5432/d1a2b3?sslmode=require", f"{HEROKU}/d1a2b3", "unverified"
    ),
    "Heroku, as node-postgres says it": Pasted(
        f"postgres://{LOGIN}@{HEROKU}:5432/d1a2b3?sslmode=no-verify",
        f"{HEROKU}/d1a2b3",
        "unverified",
    ),
    "Prisma Postgres": Pasted(
        f"postgres://{LOGIN}@db.prisma.io:5432/postgres?sslmode=require",
        "db.prisma.io/postgres",
        "unverified",
    ),
    "a host with channel binding": Pasted(
        f"postgresql://{LOGIN}@db.example.com/todos?channel_binding=require",
        "db.example.com/todos",
        "verified",
    ),
    "a host that may bind the channel": Pasted(
        f"postgresql://{LOGIN}@db.example.com/todos?sslmode=require&channel_binding=prefer",
        "db.example.com/todos",
        "unverified",
    ),
    "verify-ca without a CA": Pasted(
        f"postgresql://{LOGIN}@db.example.com/todos?sslmode=verify-ca",
        "db.example.com/todos",
        "verified",
    ),
    "the system's CAs and require": Pasted(
        f"postgresql://{LOGIN}@db.example.com/todos?sslmode=require&sslrootcert=system",
        "db.example.com/todos",
        "verified",
    ),
    "a name that only looks like Neon's": Pasted(
        f"postgresql://{LOGIN}@evil-neon.tech/todos?sslmode=require",
        "evil-neon.tech/todos",
        "unverified",
    ),
    "Docker Compose": Pasted(
        f"postgresql://{LOGIN}@todo_db:5432/todos?sslmode=disable", "todo_db/todos", "none"
    ),
    "Docker Compose, without a word on TLS": Pasted(
        f"postgresql://{LOGIN}@db:5432/todos", "db/todos", "verified"
    ),
    "PgBouncer in front": Pasted(
        f"postgresql://{LOGIN}@10.0.0.7:6432/todos?sslmode=disable",
        "10.0.0.7:6432/todos",
        "none",
        pooled=True,
    ),
    "localhost": Pasted(
        f"postgresql+psycopg2://{LOGIN}@localhost/todos", "localhost/todos", "local"
    ),
    "localhost, no TLS": Pasted(
        f"postgresql://{LOGIN}@localhost/todos?sslmode=disable", "localhost/todos", "local"
    ),
    "localhost, TLS": Pasted(
        f"postgresql://{LOGIN}@localhost/todos?sslmode=require", "localhost/todos", "unverified"
    ),
    "loopback, IPv4": Pasted(
        f"postgres://{LOGIN}@127.0.0.1:54322/todos", "127.0.0.1:54322/todos", "local"
    ),
    "loopback, IPv6": Pasted(f"postgres://{LOGIN}@[::1]:5433/todos", "[::1]:5433/todos", "local"),
    "another machine, IPv6": Pasted(
        f"postgres://{LOGIN}@[2001:db8::7]/todos", "[2001:db8::7]/todos", "verified"
    ),
    "psql on a socket": Pasted(
        f"postgresql://{USER}@/todos?host=/var/run/postgresql", "/var/run/postgresql/todos", "local"
    ),
    "psql on a socket, as host": Pasted(
        f"postgresql://{USER}@%2Ftmp:5433/todos",
        "/tmp:5433/todos",  # noqa: S108 a socket's directory, not a file
        "local",
    ),
    "Cloud SQL, for Prisma": Pasted(
        f"postgresql://{LOGIN}@localhost/todos?host=/cloudsql/project:region:instance",
        "/cloudsql/project:region:instance/todos",
        "local",
    ),
    "psql without host and user": Pasted(
        "postgresql:///todos?host=localhost&port=5433", "localhost:5433/todos", "local"
    ),
    "options that say nothing here": Pasted(
        f"postgresql://{LOGIN}@localhost/todos?keepalives=1&&gssencmode=disable"
        "&target_session_attrs=any&sslnegotiation=postgres&pgbouncer=false&connect_timeout=0&",
        "localhost/todos",
        "local",
    ),
    "an at sign in the password": Pasted(
        f"postgresql://{LOGIN}@hush@{NEON}/neondb", f"{NEON}/neondb", "verified"
    ),
}

UNREADABLE: Final = (
    'The database URL has an "@", "/" or "#" out of place, so that it cannot be read: inside user, '
    "password and options write @ as %40, / as %2F, ? as %3F and # as %23."
)
SPACED: Final = (
    "The database URL has white space or a control character inside: write it in one piece, and a "
    "space that belongs there as %20."
)
PORT: Final = (
    "The port is no number from 1 to 65535: write one, or if a password begins there, its / as %2F "
    "and its ? as %3F."
)
HOST: Final = "The host is neither a name nor an address: write letters, digits, hyphens and dots."
SERVER: Final = (
    "The host and port cannot be read: write HOST or HOST:PORT, with an IPv6 address in brackets."
)
NO_HOST: Final = (
    "The database URL names no host: write localhost, or ?host=/DIRECTORY for a socket."
)
SEVERAL: Final = (
    "The database URL names several hosts, and a write must not reach a standby: write only the "
    "primary."
)
NO_SCHEME: Final = f"The database URL does not begin with postgresql://: write {SHAPE}."
ASSIGNMENT: Final = f'The database URL begins with a name and "=": write only the URL, {SHAPE}.'
PSQL: Final = (
    "The database URL is a psql command: write only what stands between its quotes, from "
    "postgresql:// on."
)
PLACEHOLDER: Final = (
    "The password is a placeholder: copy the URL again with the password shown, or write the "
    "password in its place."
)
PLAIN_TEXT: Final = (
    "falls back to plain text in silence: write sslmode=verify-full, or disable if plain text is "
    "meant."
)
CHANNEL_BINDING: Final = (
    "The option channel_binding=require needs a verified server: write sslmode=verify-full too, or "
    "take channel_binding out of the URL."
)
STARTUP: Final = (
    "The option options does not pass through poolers: take it out of the URL, and make its "
    "settings the role's (ALTER ROLE … SET …)."
)
NO_VALUE: Final = (
    'An option of the database URL has no value: after the "?" write NAME=VALUE&…, and in a '
    "password ? as %3F."
)
UNKNOWN_MODE: Final = (
    "The option sslmode cannot have that value: write disable, require, verify-ca or verify-full."
)
PRISMAS: Final = (
    "The option sslaccept is Prisma's alone: write sslmode=verify-full for strict, else "
    "sslmode=require."
)
CERTIFICATE: Final = (
    "asks for a client certificate, which is not supported: use a password, and write the file "
    "with the server's CA, if it is that, as sslrootcert."
)
CA_FILE: Final = (
    "The option sslrootcert names no readable file of PEM certificates: write the path of one, or "
    "system for the CAs that this machine trusts."
)


def _foreign(kind: str) -> str:
    return f"The database URL is {kind}: write one for PostgreSQL, {SHAPE}."


def _percent(part: str) -> str:
    return (
        f'The {part} has a "%" that begins no percent-encoded UTF-8 character: write a "%" that '
        "belongs there as %25."
    )


def _unknown(option: str) -> str:
    return f"The {option} is not known here: take the option out of the URL."


def _limited(option: str, values: str) -> str:
    return (
        f"The option {option} cannot have that value here: write {values}, or take the option out "
        "of the URL."
    )


def _misplaced(option: str) -> str:
    return f"The option {option} is out of place after the ?: write {SHAPE}."


# What is pasted, and the sentence that its owner reads.
REFUSED: Final[list[tuple[str, str]]] = [
    ("", f"The database URL is empty: write {SHAPE}."),
    (' "" ', f"The database URL is empty: write {SHAPE}."),
    (f"psql 'postgresql://{LOGIN}@{NEON}/neondb?sslmode=require'", PSQL),
    (f"PGPASSWORD={PASSWORD} psql -h {NEON} -U {USER} neondb", PSQL),
    (f"DATABASE_URL=postgresql://{LOGIN}@{NEON}/neondb", ASSIGNMENT),
    (f"export DATABASE_URL='postgresql://{LOGIN}@{NEON}/neondb'", ASSIGNMENT),
    (f"host={NEON} user={USER} password={PASSWORD} dbname=neondb", ASSIGNMENT),
    (f"Host={NEON};Username={USER};Password={PASSWORD};Database=neondb", ASSIGNMENT),
    (f"{LOGIN}@{NEON}/neondb", NO_SCHEME),
    (f"postgresql:{LOGIN}@{NEON}/neondb", NO_SCHEME),
    (f"{USER}://{PASSWORD}@{NEON}/neondb", NO_SCHEME),
    (f"mysql://{LOGIN}@localhost:3306/todos", _foreign("for MySQL")),
    (f"mysql+aiomysql://{LOGIN}@localhost/todos", _foreign("for MySQL")),
    ("sqlite+aiosqlite:///hush.db", _foreign("for SQLite")),
    (f"mongodb+srv://{LOGIN}@cluster0.example.net/todos", _foreign("for MongoDB")),
    (f"https://{LOGIN}@hush.supabase.co", _foreign("a web address")),
    (f"jdbc:postgresql://{NEON}/neondb?user={USER}&password={PASSWORD}", _foreign("for Java")),
    (
        f"prisma://accelerate.prisma-data.net/?api_key={PASSWORD}",
        _foreign("for Prisma's own proxy, which does not speak PostgreSQL"),
    ),
    (
        f"prisma+postgres://accelerate.prisma-data.net/?api_key={PASSWORD}",
        _foreign("for Prisma's own proxy, which does not speak PostgreSQL"),
    ),
    (f"postgresql://{LOGIN} @{NEON}/neondb", SPACED),
    (f"postgresql://{LOGIN}@{NEON}\n/neondb", SPACED),
    (f"postgresql://{LOGIN}\udcff@{NEON}/neondb", SPACED),
    (f"postgresql://{LOGIN}/hush@{NEON}/neondb", UNREADABLE),
    (f"postgresql://{LOGIN}?hush@{NEON}/neondb", UNREADABLE),
    (f"postgresql://{LOGIN}#hush@{NEON}/neondb", UNREADABLE),
    (f"postgresql://{USER}:1?hush=hush@{NEON}/neondb", UNREADABLE),
    (f"postgresql://{LOGIN}@/hush?hush=1@{NEON}/neondb", UNREADABLE),
    (f"postgresql://{LOGIN}@{NEON}/neondb#hush", UNREADABLE),
    (f"postgresql://{LOGIN}@{NEON}/neondb/hush", UNREADABLE),
    (f"postgresql://{LOGIN}", PORT),
    (f"postgresql://{USER}:hush?hush", NO_VALUE),
    (f"postgresql://{LOGIN}%@{NEON}/neondb", _percent("password")),
    (f"postgresql://{LOGIN}%zz@{NEON}/neondb", _percent("password")),
    (f"postgresql://{LOGIN}%ff@{NEON}/neondb", _percent("password")),
    (f"postgresql://{LOGIN}%00@{NEON}/neondb", _percent("password")),
    (f"postgresql://{USER}%:{PASSWORD}@{NEON}/neondb", _percent("user")),
    (f"postgresql://{LOGIN}@%zz/neondb", _percent("host")),
    (f"postgresql://{LOGIN}@{NEON}/%zz", _percent("database")),
    (f"postgresql://{LOGIN}@{NEON}/neondb?%zz=1", _percent("name of an option")),
    (f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=%zz", _percent("value of an option")),
    (f"postgresql://{USER}:****************@{NEON}/neondb", PLACEHOLDER),
    (f"postgresql://{USER}:[YOUR-PASSWORD]@db.hush.supabase.co:5432/postgres", PLACEHOLDER),
    (f"postgresql://{USER}:<password>@{NEON}/neondb", PLACEHOLDER),
    (f"postgresql://{LOGIN}@/todos", NO_HOST),
    ("postgresql:///todos", NO_HOST),
    (f"postgresql://{LOGIN}@db1,db2:5433/todos", SEVERAL),
    (f"postgresql://{LOGIN}@/todos?host=db1,db2", SEVERAL),
    (f"postgresql://{LOGIN}@::1/todos", SERVER),
    (f"postgresql://{LOGIN}@[::1/todos", SERVER),
    (f"postgresql://{LOGIN}@[::zz]/todos", HOST),
    (f"postgresql://{LOGIN}@db..example.com/todos", HOST),
    (f"postgresql://{LOGIN}@%2Ftmp%0Ahush/todos", HOST),
    (f"postgresql://{LOGIN}@{'d' * 64}.example.com/todos", HOST),
    (f"postgresql://{LOGIN}@db:0/todos", PORT),
    (f"postgresql://{LOGIN}@db:65536/todos", PORT),
    (f"postgresql://{LOGIN}@db:five/todos", PORT),
    (f"postgresql://{LOGIN}@db/todos?port=-1", PORT),
    (f"postgresql://{LOGIN}@{NEON}", f"The database URL names no database: write {SHAPE}."),
    (
        f"postgresql://{LOGIN}@{NEON}/?sslmode=require",
        f"The database URL names no database: write {SHAPE}.",
    ),
    (
        f"postgresql://{LOGIN}@{NEON}/neondb%0A",
        "The database has a control character: write its name without.",
    ),
    (f"postgresql://{LOGIN}@db/todos?sslmode=prefer", f"The option sslmode=prefer {PLAIN_TEXT}"),
    (f"postgresql://{LOGIN}@db/todos?ssl=allow", f"The option sslmode=allow {PLAIN_TEXT}"),
    (f"postgresql://{LOGIN}@db/todos?sslmode=hush", UNKNOWN_MODE),
    (
        f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=disable",
        "Neon refuses plain text: take sslmode=disable out of the URL.",
    ),
    (f"postgresql://{LOGIN}@db/todos?{NEON_OPTIONS}", CHANNEL_BINDING),
    (f"postgresql://{LOGIN}@localhost/todos?channel_binding=require", CHANNEL_BINDING),
    (f"postgresql://{LOGIN}@db/todos?sslrootcert=/hush/ca.pem", CA_FILE),
    (
        f"postgresql://{LOGIN}@db/todos?channel_binding=hush",
        _limited("channel_binding", "disable or prefer or require"),
    ),
    (
        f"postgresql://{LOGIN}@db/todos?sslnegotiation=direct",
        _limited("sslnegotiation", "postgres"),
    ),
    (
        f"postgresql://{LOGIN}@db/todos?target_session_attrs=read-write",
        _limited("target_session_attrs", "any"),
    ),
    (
        f"postgresql://{LOGIN}@db/todos?connect_timeout=hush",
        "The option connect_timeout is no number: write whole seconds.",
    ),
    (f"postgresql://{LOGIN}@db/todos?options=endpoint%3Dep-cool-lab-a1b2c3d4", STARTUP),
    (f"postgresql://{LOGIN}@{NEON}/neondb?options=-csearch_path%3Dhush", STARTUP),
    (f"postgresql://{LOGIN}@db/todos?statement_timeout=5000", _unknown("option statement_timeout")),
    (f"postgresql://{LOGIN}@db/todos?SSLMODE=require", _unknown("option SSLMODE")),
    (f"postgresql://{LOGIN}@db/todos?%22hush=1", _unknown("name of an option")),
    (
        f"postgresql://{LOGIN}@db/todos?sslmode=require&sslmode=disable",
        "An option of the database URL is given twice: write it once.",
    ),
    (f"postgresql://db/todos?user={USER}&password={PASSWORD}", _misplaced("user")),
    (f"postgresql://db/todos?password={PASSWORD}&hush=1", _misplaced("password")),
    (f"postgresql://db/todos?hush=1&password={PASSWORD}&hush=2", _misplaced("password")),
    (f"postgresql://{LOGIN}@db?dbname=todos", _misplaced("dbname")),
    (f"postgresql://{LOGIN}@db/todos?sslaccept=strict", PRISMAS),
    (f"postgresql://{LOGIN}@db/todos?sslcert=/hush.pem", f"The option sslcert {CERTIFICATE}"),
    (
        f"postgresql://{LOGIN}@db/todos?sslidentity=a&sslpassword=hush&hush=1",
        f"The option sslidentity {CERTIFICATE}",
    ),
]


def refusal(text: str) -> DatabaseUrlError:
    with pytest.raises(DatabaseUrlError) as caught:
        parse_database_url(text)
    return caught.value


def asyncpg_arguments(address: DatabaseUrl) -> dict[str, object]:
    _, arguments = DIALECT().create_connect_args(address.url)
    return {**arguments, **address.connect_args}


def everything_shown(address: DatabaseUrl) -> str:
    return f"{address} {address!r} {address.display_name} {address.connect_args}"


def tls_context(text: str) -> ssl.SSLContext:
    context = parse_database_url(text).connect_args["ssl"]
    assert isinstance(context, ssl.SSLContext)
    return context


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The file of a CA that signs for nobody else."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A CA of one's own")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return file


every_accepted = pytest.mark.parametrize("pasted", ACCEPTED.values(), ids=ACCEPTED)


class TestAPastedUrlThatIsAccepted:
    @every_accepted
    def test_means_a_server_and_how_to_reach_it(self, pasted: Pasted) -> None:
        address = parse_database_url(pasted.text)
        assert address.display_name == pasted.label
        assert address.tls == pasted.tls
        assert address.via_pooler is pasted.pooled

    @every_accepted
    def test_gives_asyncpg_nothing_that_it_does_not_know(self, pasted: Pasted) -> None:
        known = inspect.signature(DIALECT.import_dbapi().asyncpg.connect).parameters
        assert asyncpg_arguments(parse_database_url(pasted.text)).keys() <= known.keys()

    @every_accepted
    def test_turns_tls_on_exactly_where_it_says_so(self, pasted: Pasted) -> None:
        encrypted = pasted.tls in {"verified", "unverified"}
        assert bool(parse_database_url(pasted.text).connect_args["ssl"]) is encrypted

    @every_accepted
    def test_names_no_statements_exactly_where_there_is_a_pooler(self, pasted: Pasted) -> None:
        cache = parse_database_url(pasted.text).connect_args.get("statement_cache_size")
        assert cache == (0 if pasted.pooled else None)

    @every_accepted
    def test_shows_no_secret(self, pasted: Pasted) -> None:
        address = parse_database_url(pasted.text)
        assert "hush" not in everything_shown(address) + everything_shown(address.direct())


class TestAPastedUrlThatIsRefused:
    @pytest.mark.parametrize(("text", "message"), REFUSED)
    def test_is_answered_with_a_sentence_on_how_to_mend_it(self, text: str, message: str) -> None:
        assert str(refusal(text)) == message

    @pytest.mark.parametrize("text", [text for text, _ in REFUSED])
    def test_shows_no_secret(self, text: str) -> None:
        error = refusal(text)
        assert "hush" not in repr(error) + "".join(traceback.format_exception(error))


class TestCredentials:
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
    @example(r""" !"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")
    @example("p%40ss+word")
    def test_survive_when_they_are_percent_encoded(self, secret: str) -> None:
        encoded = quote(secret, safe="")
        url = parse_database_url(f"postgres://u{encoded}:{encoded}@localhost/todos").url
        assert (url.username, url.password) == (f"u{secret}", secret)

    def test_may_be_left_to_the_environment(self) -> None:
        url = parse_database_url("postgresql://localhost/todos").url
        assert (url.username, url.password) == (None, None)

    def test_keep_colons_and_the_at_signs_before_the_last(self) -> None:
        url = parse_database_url("postgresql://ada:a:b@c@localhost/todos").url
        assert (url.username, url.password) == ("ada", "a:b@c")


class TestTheDirectAddress:
    def test_is_the_server_behind_neons_pooler(self) -> None:
        pooled = parse_database_url(
            f"postgres://{LOGIN}@{NEON_POOLER}/neondb?application_name=todo"
        )
        direct = pooled.direct()
        assert direct.display_name == f"{NEON}/neondb"
        assert direct.url.password == PASSWORD
        assert not direct.via_pooler
        assert direct.connect_args == {
            "ssl": pooled.connect_args["ssl"],
            "server_settings": {"application_name": "todo"},
        }

    def test_is_the_server_behind_vercels_pooler(self) -> None:
        direct = parse_database_url(f"postgres://{LOGIN}@{VERCEL_POOLER}/verceldb").direct()
        assert (
            direct.display_name
            == "ep-old-sky-123456.us-east-1.postgres.vercel-storage.com/verceldb"
        )

    @pytest.mark.parametrize(
        "server", [NEON, f"{SUPABASE_POOLER}:6543", "todo-pooler.example.com", "10.0.0.7:6432"]
    )
    def test_is_the_same_where_there_is_no_pooler_of_neons(self, server: str) -> None:
        address = parse_database_url(f"postgres://{LOGIN}@{server}/todos")
        assert address.direct() is address


class TestTheTlsContext:
    @pytest.mark.parametrize(
        "end", [f"{NEON}/neondb?sslmode=require", "db/todos", "db/todos?sslmode=verify-full"]
    )
    def test_checks_chain_and_name_to_verify(self, end: str) -> None:
        context = tls_context(f"postgres://{LOGIN}@{end}")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

    def test_checks_nothing_where_only_encryption_is_required(self) -> None:
        context = tls_context(f"postgres://{LOGIN}@db/todos?sslmode=require")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)

    @pytest.mark.parametrize("mode", ["require", "verify-ca"])
    def test_checks_the_chain_alone_against_a_ca_of_ones_own(self, mode: str, ca: Path) -> None:
        context = tls_context(f"postgres://{LOGIN}@db/todos?sslmode={mode}&sslrootcert={ca}")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
        assert len(context.get_ca_certs()) == 1

    @pytest.mark.parametrize("end", ["db/todos?", "db/todos?sslmode=verify-full&", "[::1]/todos?"])
    def test_checks_chain_and_name_against_a_ca_of_ones_own(self, end: str, ca: Path) -> None:
        context = tls_context(f"postgres://{LOGIN}@{end}sslrootcert={ca}")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert len(context.get_ca_certs()) == 1


class TestOptions:
    def test_carry_the_name_of_the_application_to_the_server(self) -> None:
        address = parse_database_url("postgres://localhost/todos?application_name=to-do+list%21")
        assert address.connect_args == {
            "ssl": False,
            "server_settings": {"application_name": "to-do+list!"},
        }

    def test_limit_the_time_to_connect(self) -> None:
        address = parse_database_url("postgres://localhost/todos?connect_timeout=15")
        assert address.connect_args == {"ssl": False, "timeout": 15}

    def test_place_a_socket_where_the_driver_looks_for_it(self) -> None:
        address = parse_database_url("postgres://u@localhost:5433/todos?host=/run/a:b")
        assert asyncpg_arguments(address) == {
            "database": "todos",
            "host": "/run/a:b",
            "port": 5433,
            "ssl": False,
            "user": "u",
        }


class TestAnyTextAtAll:
    @given(st.text() | st.text().map("postgres://".__add__))
    def test_is_an_address_or_a_refusal(self, text: str) -> None:
        try:
            address = parse_database_url(text)
        except DatabaseUrlError:
            return
        assert address.display_name

    @given(
        st.text(),
        st.text(),
        st.sampled_from([f"{NEON}/neondb", "db:5432/todos?sslmode=require", "[::1]", "", "/todos"]),
    )
    def test_shows_no_piece_of_unencoded_credentials(
        self, before: str, between: str, end: str
    ) -> None:
        try:
            address = parse_database_url(f"postgres://{before}hush{between}hush@{end}")
        except DatabaseUrlError as error:
            shown = str(error)
        else:
            shown = everything_shown(address)
        assert "hush" not in shown
