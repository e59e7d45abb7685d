"""Which database URLs are accepted, what they mean, and how the others are refused."""

import inspect
import os
import ssl
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import asyncpg as asyncpg_driver
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

# Every secret contains "hush", so a text without "hush" shows no secret.
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
FORM: Final = "postgresql://USER:PASSWORD@HOST/DATABASE"


class Pasted(NamedTuple):
    """A text and its meaning."""

    text: str
    display_name: str
    tls: Tls
    via_pooler: bool = False


ACCEPTED: Final = {
    "Neon, pooled": Pasted(
        f"postgresql://{LOGIN}@{NEON_POOLER}/neondb?{NEON_OPTIONS}",
        f"{NEON_POOLER}/neondb",
        "verified",
        via_pooler=True,
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
        via_pooler=True,
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
        via_pooler=True,
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
        via_pooler=True,
    ),
    "Supabase, through Vercel": Pasted(
        f"postgres://{LOGIN}@{SUPABASE_POOLER}:6543/postgres?sslmode=require&supa=base-pooler.x",
        f"{SUPABASE_POOLER}:6543/postgres",
        "unverified",
        via_pooler=True,
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
    "Heroku, as node-postgres writes it": Pasted(
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
    "a host with optional channel binding": Pasted(
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
    "a name that ends like Neon's domain": Pasted(
        f"postgresql://{LOGIN}@evil-neon.tech/todos?sslmode=require",
        "evil-neon.tech/todos",
        "unverified",
    ),
    "Docker Compose": Pasted(
        f"postgresql://{LOGIN}@todo_db:5432/todos?sslmode=disable", "todo_db/todos", "none"
    ),
    "Docker Compose, without sslmode": Pasted(
        f"postgresql://{LOGIN}@db:5432/todos", "db/todos", "verified"
    ),
    "PgBouncer in front": Pasted(
        f"postgresql://{LOGIN}@10.0.0.7:6432/todos?sslmode=disable",
        "10.0.0.7:6432/todos",
        "none",
        via_pooler=True,
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
    "options without effect": Pasted(
        f"postgresql://{LOGIN}@localhost/todos?keepalives=1&&gssencmode=disable"
        "&target_session_attrs=any&sslnegotiation=postgres&pgbouncer=false&connect_timeout=0&",
        "localhost/todos",
        "local",
    ),
    "an at sign in the password": Pasted(
        f"postgresql://{LOGIN}@hush@{NEON}/neondb", f"{NEON}/neondb", "verified"
    ),
}

NOT_POSTGRESQL: Final = (
    "The database URL does not start with postgresql://: write only the URL of a PostgreSQL "
    f"database, without psql, export or the name of a variable: {FORM}."
)
UNSAFE: Final = (
    'The database URL contains white space, a control character or a "%" that does not start a '
    "percent-encoded character: write a space as %20, and % as %25."
)
NOT_SPLITTABLE: Final = (
    "The database URL cannot be split into its parts: write "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE, an IPv6 address in brackets, and "
    "in user, password and values @ as %40, / as %2F, ? as %3F, # as %23."
)
PORT: Final = "The port is not a number from 1 to 65535: write one."
TIMEOUT: Final = "The connect_timeout is not a number from 0 to 86400: write one."
HOST: Final = "The database URL has no valid host: write one name or address, or ?host=/DIRECTORY."
DATABASE: Final = f"The database URL has no name of a database: write {FORM}."
PLACEHOLDER: Final = "The password is a placeholder: write the real one."
CHANNEL_BINDING: Final = "The option channel_binding=require needs sslmode=verify-full."
CA_FILE: Final = "The option sslrootcert is not a readable PEM file (No such file or directory)."
TWICE: Final = "The database URL has an option twice: write it once."
NEON_TLS: Final = "Neon refuses plain text: remove sslmode=disable from the URL."


def _unsupported(option: str, hint: str = f"remove it, and write {FORM}") -> str:
    return f"The {option} is not supported like this: {hint}."


MODE: Final = _unsupported(
    "option sslmode",
    "write verify-full, verify-ca, require or disable; the others allow plain text",
)
STARTUP: Final = _unsupported(
    "option options", "poolers refuse it; remove it and use ALTER ROLE … SET …"
)
SERVER: Final = f"postgresql://{LOGIN}@db/todos"

REFUSED: Final[dict[str, list[str]]] = {
    NOT_POSTGRESQL: [
        "",
        ' "" ',
        f"psql 'postgresql://{LOGIN}@{NEON}/neondb?sslmode=require'",
        f"PGPASSWORD={PASSWORD} psql -h {NEON} -U {USER} neondb",
        f"DATABASE_URL=postgresql://{LOGIN}@{NEON}/neondb",
        f"export DATABASE_URL='postgresql://{LOGIN}@{NEON}/neondb'",
        f"host={NEON} user={USER} password={PASSWORD} dbname=neondb",
        f"{LOGIN}@{NEON}/neondb",
        f"postgresql:{LOGIN}@{NEON}/neondb",
        f"{USER}://{PASSWORD}@{NEON}/neondb",
        f"mysql+aiomysql://{LOGIN}@localhost/todos",
        "sqlite+aiosqlite:///hush.db",
        f"https://{LOGIN}@hush.supabase.co",
        f"jdbc:postgresql://{NEON}/neondb?user={USER}&password={PASSWORD}",
        f"prisma+postgres://accelerate.prisma-data.net/?api_key={PASSWORD}",
    ],
    UNSAFE: [
        f"postgresql://{LOGIN} @{NEON}/neondb",
        f"postgresql://{LOGIN}@{NEON}\n/neondb",
        f"postgresql://{LOGIN}\udcff@{NEON}/neondb",
        f"postgresql://{LOGIN}%@{NEON}/neondb",
        f"postgresql://{LOGIN}%zz@{NEON}/neondb",
        f"postgresql://{LOGIN}%ff@{NEON}/neondb",
        f"postgresql://{LOGIN}%00@{NEON}/neondb",
        f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=%zz",
    ],
    NOT_SPLITTABLE: [
        f"postgresql://{LOGIN}/hush@{NEON}/neondb",
        f"postgresql://{LOGIN}?hush@{NEON}/neondb",
        f"postgresql://{LOGIN}#hush@{NEON}/neondb",
        f"postgresql://{USER}:1?hush=hush@{NEON}/neondb",
        f"postgresql://{LOGIN}@/hush?hush=1@{NEON}/neondb",
        f"postgresql://{LOGIN}@{NEON}/neondb#hush",
        f"postgresql://{LOGIN}@{NEON}/neondb/hush",
        f"postgresql://{LOGIN}",
        f"postgresql://{USER}:hush?hush",
        f"postgresql://{LOGIN}@::1/todos",
        f"postgresql://{LOGIN}@[::1/todos",
        f"postgresql://{LOGIN}@db:five/todos",
        f"postgresql://{LOGIN}@db:0/todos",
        f"postgresql://{LOGIN}@db:5_432/todos",
        f"postgresql://{LOGIN}@db:٥٤٣٢/todos",
        f"postgresql://{LOGIN}@db1:5432,db2:5432/todos",
    ],
    HOST: [
        f"postgresql://{LOGIN}@/todos",
        "postgresql:///todos",
        f"postgresql://{LOGIN}@db1,db2:5433/todos",
        f"postgresql://{LOGIN}@/todos?host=db1,db2",
        f"postgresql://{LOGIN}@[::zz]/todos",
        f"postgresql://{LOGIN}@db..example.com/todos",
        f"postgresql://{LOGIN}@%2Ftmp%0Ahush/todos",
        f"postgresql://{LOGIN}@{'d' * 64}.example.com/todos",
    ],
    PORT: [
        f"postgresql://{LOGIN}@db/todos?port=0",
        f"postgresql://{LOGIN}@db:65536/todos",
        f"postgresql://{LOGIN}@db/todos?port=-1",
    ],
    DATABASE: [
        f"postgresql://{LOGIN}@{NEON}",
        f"postgresql://{LOGIN}@{NEON}/?sslmode=require",
        f"postgresql://{LOGIN}@{NEON}/neondb%0A",
    ],
    PLACEHOLDER: [
        f"postgresql://{USER}:****************@{NEON}/neondb",
        f"postgresql://{USER}:[YOUR-PASSWORD]@db.hush.supabase.co:5432/postgres",
        f"postgresql://{USER}:<password>@{NEON}/neondb",
    ],
    MODE: [f"{SERVER}?sslmode={mode}" for mode in ("prefer", "allow", "hush")],
    NEON_TLS: [f"postgresql://{LOGIN}@{NEON}/neondb?sslmode=disable"],
    CHANNEL_BINDING: [
        f"{SERVER}?{NEON_OPTIONS}",
        f"postgresql://{LOGIN}@localhost/todos?channel_binding=require",
    ],
    CA_FILE: [f"{SERVER}?sslrootcert=/hush/ca.pem"],
    TIMEOUT: [f"{SERVER}?connect_timeout=hush", f"{SERVER}?connect_timeout=1_0"],
    STARTUP: [
        f"{SERVER}?options=endpoint%3Dep-cool-lab-a1b2c3d4",
        f"postgresql://{LOGIN}@{NEON}/neondb?options=-csearch_path%3Dhush",
    ],
    TWICE: [f"{SERVER}?sslmode=require&sslmode=disable"],
    **{
        _unsupported(f"option {options.partition('=')[0]}"): [f"{SERVER}?{options}"]
        for options in (
            "ssl=allow",
            "channel_binding=hush",
            "sslnegotiation=direct",
            "target_session_attrs=read-write",
            "statement_timeout=5000",
            "SSLMODE=require",
            "dbname=todos",
            "sslaccept=strict",
            "sslcert=/hush.pem",
            f"user={USER}&password={PASSWORD}",
            f"password={PASSWORD}&hush=1",
            f"sslpassword={PASSWORD}&hush=1",
        )
    },
    _unsupported("name of an option"): [f"{SERVER}?%22hush=1"],
}
WITH_A_MESSAGE: Final = [(text, message) for message, texts in REFUSED.items() for text in texts]


def refusal(text: str) -> DatabaseUrlError:
    with pytest.raises(DatabaseUrlError) as caught:
        parse_database_url(text)
    return caught.value


def asyncpg_arguments(parsed: DatabaseUrl) -> dict[str, object]:
    _, arguments = DIALECT().create_connect_args(parsed.url)
    return {**arguments, **parsed.connect_args}


def all_texts(parsed: DatabaseUrl) -> str:
    return f"{parsed} {parsed!r} {parsed.display_name} {parsed.connect_args}"


def tls_context(text: str) -> ssl.SSLContext:
    context = parse_database_url(text).connect_args["ssl"]
    assert isinstance(context, ssl.SSLContext)
    return context


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The certificate file of a private CA."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A private CA")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return file


every_accepted = pytest.mark.parametrize("pasted", ACCEPTED.values(), ids=ACCEPTED)


class TestAcceptedUrl:
    @every_accepted
    def test_means_a_server_and_how_to_connect(self, pasted: Pasted) -> None:
        parsed = parse_database_url(pasted.text)
        assert parsed.display_name == pasted.display_name
        assert parsed.tls == pasted.tls
        assert parsed.via_pooler is pasted.via_pooler

    @every_accepted
    def test_gives_asyncpg_nothing_that_it_does_not_know(self, pasted: Pasted) -> None:
        known = inspect.signature(DIALECT.import_dbapi().asyncpg.connect).parameters
        assert asyncpg_arguments(parse_database_url(pasted.text)).keys() <= known.keys()

    @every_accepted
    def test_uses_tls_exactly_if_tls_says_so(self, pasted: Pasted) -> None:
        encrypted = pasted.tls in {"verified", "unverified"}
        assert bool(parse_database_url(pasted.text).connect_args["ssl"]) is encrypted

    @every_accepted
    def test_disables_the_statement_cache_exactly_behind_a_pooler(self, pasted: Pasted) -> None:
        cache = parse_database_url(pasted.text).connect_args.get("statement_cache_size")
        assert cache == (0 if pasted.via_pooler else None)

    @every_accepted
    def test_shows_no_secret(self, pasted: Pasted) -> None:
        parsed = parse_database_url(pasted.text)
        assert "hush" not in all_texts(parsed) + all_texts(parsed.direct())


class TestRefusedUrl:
    @pytest.mark.parametrize(("text", "message"), WITH_A_MESSAGE)
    def test_gets_a_message_that_says_what_to_write(self, text: str, message: str) -> None:
        assert str(refusal(text)) == message

    @pytest.mark.parametrize("text", [text for text, _ in WITH_A_MESSAGE])
    def test_shows_no_secret(self, text: str) -> None:
        error = refusal(text)
        assert "hush" not in repr(error) + "".join(traceback.format_exception(error))


class TestCredentials:
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
    @example(r""" !"#$%&'()*+,-./:;<=>?@[\]^_`{|}~""")
    @example("p%40ss+word")
    @example("[secret]")
    def test_are_percent_decoded(self, secret: str) -> None:
        encoded = quote(secret, safe="")
        url = parse_database_url(f"postgres://u{encoded}:{encoded}@localhost/todos").url
        assert (url.username, url.password) == (f"u{secret}", secret)

    def test_may_be_left_to_the_environment(self) -> None:
        url = parse_database_url("postgresql://localhost/todos").url
        assert (url.username, url.password) == (None, None)

    def test_keep_colons_and_the_at_signs_before_the_last(self) -> None:
        url = parse_database_url("postgresql://ada:a:b@c@localhost/todos").url
        assert (url.username, url.password) == ("ada", "a:b@c")


class TestEnvironment:
    """The variables and files that asyncpg reads."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PGHOST", "elsewhere.example"),
            ("PGPORT", "port"),
            ("PGDATABASE", "other"),
            ("PGUSER", "eve"),
            ("PGPASSWORD", "wrong"),
            ("PGPASSFILE", "/etc/passwd"),
            ("PGSERVICE", "other"),
            ("PGSERVICEFILE", "/nonexistent"),
            ("PGSSLMODE", "nonsense"),
            ("PGSSLROOTCERT", "/nonexistent"),
            ("PGSSLNEGOTIATION", "direct"),
            ("PGSSLNEGOTIATION", "nonsense"),
            ("PGTARGETSESSIONATTRS", "standby"),
            ("PGTARGETSESSIONATTRS", "nonsense"),
            ("PGGSSLIB", "nonsense"),
            ("PGOPTIONS", "-c search_path=other"),
            ("PGTZ", "nonsense"),
        ],
    )
    @pytest.mark.parametrize("end", ["localhost:1/todos", "/todos?host=/nowhere"])
    async def test_has_no_influence_on_a_complete_url(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, end: str
    ) -> None:
        monkeypatch.setenv(name, value)
        arguments = asyncpg_arguments(parse_database_url(f"postgres://{LOGIN}@{end}"))
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await asyncpg_driver.connect(**arguments)

    def test_supplies_the_missing_user_and_password(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "passwords"
        file.write_text("# comment\n\nlocalhost:5432:todos:ada:p\\:w:x\n")
        monkeypatch.setenv("PGUSER", USER)
        monkeypatch.setenv("PGPASSFILE", str(file))
        parse_database_url("postgresql://localhost/todos")

    @pytest.mark.parametrize("content", [b"hush\n", b"localhost:5432:todos:ada\\:hush", b"\xff"])
    def test_with_a_malformed_password_file_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "passwords"
        file.write_bytes(content)
        monkeypatch.delenv("PGPASSWORD", raising=False)
        monkeypatch.setenv("PGPASSFILE", str(file))
        message = str(refusal(f"postgresql://{USER}@localhost/todos"))
        assert "is not HOST:PORT:DATABASE:USER:PASSWORD: correct it" in message

    def test_without_a_name_of_the_user_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PGUSER", "LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # as in a container
        assert "has no user" in str(refusal("postgresql://localhost/todos"))

    def test_with_an_unusable_key_log_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
        assert "SSLKEYLOGFILE cannot be written" in str(refusal(f"postgres://{LOGIN}@db/todos"))


class TestDirectUrl:
    def test_is_the_server_behind_the_pooler_of_neon(self) -> None:
        pooled = parse_database_url(
            f"postgres://{LOGIN}@{NEON_POOLER}/neondb?application_name=todo"
        )
        direct = pooled.direct()
        assert direct.display_name == f"{NEON}/neondb"
        assert direct.url.password == PASSWORD
        assert not direct.via_pooler
        assert direct.connect_args["ssl"] is pooled.connect_args["ssl"]
        assert direct.connect_args["server_settings"] == {"application_name": "todo"}

    def test_is_the_server_behind_the_pooler_of_vercel(self) -> None:
        direct = parse_database_url(f"postgres://{LOGIN}@{VERCEL_POOLER}/verceldb").direct()
        assert (
            direct.display_name
            == "ep-old-sky-123456.us-east-1.postgres.vercel-storage.com/verceldb"
        )

    @pytest.mark.parametrize(
        "server", [NEON, f"{SUPABASE_POOLER}:6543", "todo-pooler.example.com", "10.0.0.7:6432"]
    )
    def test_is_the_same_without_a_pooler_of_neon(self, server: str) -> None:
        parsed = parse_database_url(f"postgres://{LOGIN}@{server}/todos")
        assert parsed.direct() is parsed


class TestSslContext:
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
    def test_checks_the_chain_alone_against_a_private_ca(self, mode: str, ca: Path) -> None:
        context = tls_context(f"postgres://{LOGIN}@db/todos?sslmode={mode}&sslrootcert={ca}")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
        assert len(context.get_ca_certs()) == 1

    @pytest.mark.parametrize("end", ["db/todos?", "db/todos?sslmode=verify-full&", "[::1]/todos?"])
    def test_checks_chain_and_name_against_a_private_ca(self, end: str, ca: Path) -> None:
        context = tls_context(f"postgres://{LOGIN}@{end}sslrootcert={ca}")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert len(context.get_ca_certs()) == 1


class TestOptions:
    def test_send_the_application_name_to_the_server(self) -> None:
        parsed = parse_database_url("postgres://localhost/todos?application_name=to-do+list%21")
        assert parsed.connect_args["server_settings"] == {"application_name": "to-do+list!"}

    def test_limit_the_time_to_connect(self) -> None:
        parsed = parse_database_url("postgres://localhost/todos?connect_timeout=15")
        assert parsed.connect_args["timeout"] == 15
        assert parsed.connect_timeout == 15

    @pytest.mark.parametrize("options", ["", "?connect_timeout=0"])
    def test_leave_the_time_to_connect_to_the_pool(self, options: str) -> None:
        assert parse_database_url(f"postgres://localhost/todos{options}").connect_timeout is None

    def test_pass_the_directory_of_a_socket_to_asyncpg(self) -> None:
        parsed = parse_database_url("postgres://u@localhost:5433/todos?host=/run/a:b")
        arguments = asyncpg_arguments(parsed)
        assert (arguments["host"], arguments["port"]) == ("/run/a:b", 5433)


class TestAnyText:
    @given(st.text() | st.text("a1:/@?&=[]%#.,+*").map("postgres://".__add__))
    @example("postgres://a:/a")
    def test_is_parsed_or_refused(self, text: str) -> None:
        try:
            parsed = parse_database_url(text)
        except DatabaseUrlError:
            return
        assert parsed.display_name

    @given(
        st.text(),
        st.text(),
        st.sampled_from([f"{NEON}/neondb", "db:5432/todos?sslmode=require", "[::1]", "", "/todos"]),
    )
    def test_shows_no_piece_of_unencoded_credentials(
        self, before: str, between: str, end: str
    ) -> None:
        try:
            parsed = parse_database_url(f"postgres://{before}hush{between}hush@{end}")
        except DatabaseUrlError as error:
            shown = str(error)
        else:
            shown = all_texts(parsed)
        assert "hush" not in shown
