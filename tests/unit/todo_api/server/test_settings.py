"""Each variable: its default, how it is read, and the error for an invalid value."""

import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from pydantic import SecretStr

from todo_api.server.settings import ConfigurationError, JwksAuth, Settings, SharedSecretAuth

ORIGIN: Final = "https://app.example.com"
LOCAL: Final = "http://localhost:3000"
REDIS: Final = "rediss://:hunter2@redis.example.com:6380/0"
DATABASE: Final = "postgresql://ada:hunter2@db.example.com/todo"
SECRET: Final = "a-secret-that-only-the-frontend-knows"


class Variable(NamedTuple):
    """A variable with its default, and a text with the value that the text sets."""

    name: str
    default: object
    text: str
    value: object

    def read(self) -> object:
        return getattr(Settings.read(), self.name.lower())


VARIABLES: Final = [
    Variable("DATABASE_URL", None, DATABASE, SecretStr(DATABASE)),
    Variable("DATABASE_URL_DIRECT", None, DATABASE, SecretStr(DATABASE)),
    Variable("DATABASE_POOL_SIZE", 10, "25", 25),
    Variable("DATABASE_RLS", "off", "on", "on"),
    Variable("DATABASE_BATCHES", "statement", "transaction", "transaction"),
    Variable("DATABASE_NETWORK", "auto", "private", "private"),
    Variable("BETTER_AUTH_URL", None, ORIGIN, ORIGIN),
    Variable("AUTH_JWKS_URL", None, "http://auth:3000/jwks", "http://auth:3000/jwks"),
    Variable("AUTH_ISSUER", None, "me", "me"),
    Variable("AUTH_AUDIENCE", None, "you", "you"),
    Variable("AUTH_ALGORITHMS", ("EdDSA", "ES256", "RS256"), " ES512,PS256 ,", ("ES512", "PS256")),
    Variable("AUTH_MODE", "jwks", "shared-secret", "shared-secret"),
    Variable("BETTER_AUTH_SECRET", None, SECRET, SecretStr(SECRET)),
    Variable("CORS_ORIGINS", (), f"{ORIGIN}, {LOCAL}", (ORIGIN, LOCAL)),
    Variable("ROOT_PATH", "", "/backend", "/backend"),
    Variable("REDIS_URL", None, REDIS, SecretStr(REDIS)),
    Variable("RATE_LIMIT", "600/minute", "10/second;600/minute", "10/second;600/minute"),
    Variable("RATE_LIMIT_AUTH_FAILURES", "60/minute", "off", "off"),
    Variable("MAX_CONCURRENT_REQUESTS", 1000, "100", 100),
    Variable("MAX_STREAMS", 2000, "100", 100),
    Variable("KEEP_ALIVE_TIMEOUT", 125, "620", 620),
    Variable("RETENTION_DAYS", 30, "7", 7),
    Variable("FORWARDED_ALLOW_IPS", (), "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
    Variable("METRICS", "on", "9090", 9090),
    Variable("DOCS", "on", "off", "off"),
    Variable("HOST", "127.0.0.1", "::", "::"),
    Variable("PORT", 8000, "80", 80),
    Variable("WORKERS", 1, "4", 4),
    Variable("LOG_LEVEL", "info", "debug", "debug"),
    Variable("LOG_FORMAT", None, "json", "json"),
    Variable("DATA_DIR", Path(".todo"), "/var/lib/todo", Path("/var/lib/todo")),
]
every_variable = pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty environment and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for attribute in Settings.model_fields:
        monkeypatch.delenv(attribute.upper(), raising=False)


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text)


def settings_error() -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read()
    return str(caught.value)


def auth_error() -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.read().auth()
    return str(caught.value)


class TestAVariable:
    def test_is_in_the_table_above(self) -> None:
        assert [variable.name.lower() for variable in VARIABLES] == list(Settings.model_fields)

    @every_variable
    def test_has_a_default(self, variable: Variable) -> None:
        assert variable.read() == variable.default

    @every_variable
    def test_is_read_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, variable: Variable
    ) -> None:
        monkeypatch.setenv(variable.name, variable.text)
        assert variable.read() == variable.value

    @every_variable
    def test_is_read_from_a_dotenv_file(self, variable: Variable) -> None:
        Path(".env").write_text(f"UNKNOWN=1\n{variable.name}={variable.text}\n", "utf-8")
        assert variable.read() == variable.value

    @every_variable
    def test_counts_as_unset_if_it_is_empty(
        self, monkeypatch: pytest.MonkeyPatch, variable: Variable
    ) -> None:
        monkeypatch.setenv(variable.name, "")
        assert variable.read() == variable.default

    @every_variable
    def test_counts_as_unset_if_it_is_empty_in_a_dotenv_file(self, variable: Variable) -> None:
        Path(".env").write_text(f"{variable.name}=\n", "utf-8")
        assert variable.read() == variable.default

    def test_of_the_environment_has_precedence_over_the_dotenv_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(".env").write_text("PORT=1\nHOST=::1\n", "utf-8")
        set_variables(monkeypatch, PORT="2")
        settings = Settings.read()
        assert (settings.port, settings.host) == (2, "::1")


class TestDotenvFile:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_is_utf_8_with_or_without_byte_order_mark(self, encoding: str) -> None:
        Path(".env").write_text("AUTH_ISSUER=müller\n", encoding)
        assert Settings.read().auth_issuer == "müller"

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_in_another_encoding_is_an_error(self, encoding: str) -> None:
        Path(".env").write_text("AUTH_ISSUER=müller\n", encoding)
        assert settings_error() == ".env is not UTF-8 text: save it as UTF-8"

    def test_that_is_a_directory_is_an_error(self) -> None:
        Path(".env").mkdir()
        assert settings_error().startswith(".env is a directory: ")

    @pytest.mark.skipif(sys.platform != "linux", reason="it needs /proc")
    def test_that_cannot_be_read_is_an_error(self) -> None:
        Path(".env").symlink_to("/proc/self/mem")  # opens, but reading fails, also for root
        assert settings_error() == ".env cannot be read: Input/output error"


class TestAnInvalidValue:
    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("DATABASE_POOL_SIZE", "0"),
            ("DATABASE_POOL_SIZE", "101"),
            ("DATABASE_RLS", "full"),
            ("DATABASE_NETWORK", "trusted"),
            ("HOST", "*"),
            ("HOST", "http://0.0.0.0"),
            ("HOST", "10.0.0.0/8"),
            ("HOST", "my host"),
            ("HOST", f"{'a' * 64}.example"),
            ("DATA_DIR", "~no.such.user/x"),
            ("METRICS", "65536"),
            ("METRICS", "9090.5"),
            ("METRICS", "127.0.0.1:9090"),
            ("REDIS_URL", "redis.example.com:6379"),
            ("REDIS_URL", "https://:hunter2@redis.example.com"),
            ("MAX_CONCURRENT_REQUESTS", "0"),
            ("MAX_CONCURRENT_REQUESTS", "100001"),
            ("MAX_STREAMS", "0"),
            ("MAX_STREAMS", "100001"),
            ("KEEP_ALIVE_TIMEOUT", "0"),
            ("KEEP_ALIVE_TIMEOUT", "3601"),
            ("RETENTION_DAYS", "0"),
            ("RETENTION_DAYS", "3651"),
            ("RETENTION_DAYS", "1.5"),
            ("FORWARDED_ALLOW_IPS", "*"),
            ("FORWARDED_ALLOW_IPS", "10.0.0.1,proxy.example.com"),
            ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
            ("PORT", "eighty"),
            ("PORT", "80.5"),
            ("PORT", "0"),
            ("PORT", "65536"),
            ("PORT", "-8000"),
            ("PORT", "8000 8001"),
            ("WORKERS", "0"),
            ("WORKERS", "65"),
            ("WORKERS", "many"),
            ("LOG_LEVEL", "verbose"),
            ("LOG_FORMAT", "yaml"),
            ("AUTH_MODE", "both"),
            ("AUTH_MODE", "jwks,shared-secret"),
            ("BETTER_AUTH_URL", "todo.example"),
            ("BETTER_AUTH_URL", "todo.example:3000"),
            ("BETTER_AUTH_URL", "ftp://todo.example"),
            ("BETTER_AUTH_URL", "https://:3000"),
            ("BETTER_AUTH_URL", "https://todo.example/api/auth"),
            ("BETTER_AUTH_URL", "https://todo.example//"),
            ("BETTER_AUTH_URL", "https://todo.example?x=1"),
            ("BETTER_AUTH_URL", "https://todo.example#x"),
            ("BETTER_AUTH_URL", "https://ada:hunter2@todo.example"),
            ("BETTER_AUTH_URL", "https://[todo.example"),
            ("AUTH_JWKS_URL", "file:///etc/passwd"),
            ("AUTH_JWKS_URL", "/api/auth/jwks"),
            ("AUTH_JWKS_URL", "https://ada:hunter2@todo.example/jwks"),
            ("CORS_ORIGINS", "*"),
            ("CORS_ORIGINS", f"{ORIGIN},*"),
            ("CORS_ORIGINS", "https://*.todo.example"),
            ("CORS_ORIGINS", "todo.example"),
            ("CORS_ORIGINS", "null"),
            ("CORS_ORIGINS", "https://todo.example/app"),
            ("CORS_ORIGINS", "https://todo.example?x=1"),
            ("CORS_ORIGINS", "https://todo.example#x"),
            ("CORS_ORIGINS", "https://ada:hunter2@todo.example"),
            ("CORS_ORIGINS", "https://todo.example:99999"),
            ("CORS_ORIGINS", "capacitor://"),
            ("CORS_ORIGINS", "file://"),
            ("CORS_ORIGINS", "https://[todo.example"),
            ("ROOT_PATH", "https://todo.example/backend"),
            ("ROOT_PATH", "/backend/../admin"),
            ("ROOT_PATH", "/./backend"),
            ("ROOT_PATH", "/backend?x=1"),
            ("ROOT_PATH", "/backend#x"),
            ("ROOT_PATH", "/back end"),
            ("ROOT_PATH", "/a//b"),
            ("ROOT_PATH", "/back%2Fend"),
            ("ROOT_PATH", "/bäckend"),
            ("ROOT_PATH", "back\\end"),
        ],
    )
    def test_is_reported_with_the_variable_and_the_value(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str
    ) -> None:
        monkeypatch.setenv(variable, text)
        (line,) = settings_error().splitlines()
        assert line.startswith(f"{variable} must ")
        is_hidden = variable == "REDIS_URL" or any(
            sign in text for sign in ("@", "?", "#", "%", "a" * 64)
        )
        assert (f", not {text!r}" in line) != is_hidden
        assert "hunter2" not in line

    @pytest.mark.parametrize(
        ("variable", "text", "fix"),
        [
            ("PORT", "tcp://10.0.0.1:8000", "must be a number from 1 to 65535"),
            ("WORKERS", "auto", "must be a number from 1 to 64"),
            ("LOG_LEVEL", "trace", "must be 'debug', 'info', 'warning' or 'error'"),
            ("HOST", "0.0.0.0:8000", "write HOST=0.0.0.0 and PORT=8000"),
            ("HOST", "[::1]:80", "write HOST=[::1] and PORT=80"),
            ("BETTER_AUTH_URL", f"{ORIGIN}/api/auth", f"write {ORIGIN},"),
            ("CORS_ORIGINS", f"{ORIGIN}/tasks", f"write {ORIGIN},"),
            ("CORS_ORIGINS", "app.example.com", f"write {ORIGIN},"),
            ("CORS_ORIGINS", "*", "without *"),
            ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "write 10.0.0.0/8,"),
            ("REDIS_URL", "redis-cli -u redis://localhost", "must be a redis:// or rediss:// URL"),
            ("REDIS_URL", "redis://:pa/ss@localhost:6379", "/ as %2F"),
            ("REDIS_URL", "redis://:12/34@localhost:6379", "/ as %2F"),
            ("REDIS_URL", "redis://:pa#ss@localhost:6379", "# as %23"),
            ("REDIS_URL", "redis://localhost:6379/cache", "redis://user:password@host:6379/0"),
        ],
    )
    def test_is_answered_with_the_right_form(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, fix: str
    ) -> None:
        monkeypatch.setenv(variable, text)
        (line,) = settings_error().splitlines()
        assert fix in line

    @pytest.mark.parametrize(
        "secret", [SECRET, "2Kq9mZp4Vx7Lw1Tn8Rb5Yc3Hs6", "kq/9mZp4Vx7Lw1Tn8Rb5Yc", "hunter2"]
    )
    def test_that_may_be_a_secret_is_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, secret: str
    ) -> None:
        set_variables(monkeypatch, PORT=secret, CORS_ORIGINS=secret, HOST=f"{secret}@")
        assert secret not in settings_error()

    def test_is_reported_together_with_all_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, PORT="x", WORKERS="0", CORS_ORIGINS="*", LOG_LEVEL="loud")
        variables = [line.partition(" ")[0] for line in settings_error().splitlines()]
        assert sorted(variables) == ["CORS_ORIGINS", "LOG_LEVEL", "PORT", "WORKERS"]

    def test_in_a_dotenv_file_is_reported_in_the_same_way(self) -> None:
        Path(".env").write_text("PORT=eighty\n", "utf-8")
        assert settings_error().startswith("PORT must ")


class TestRootPath:
    @pytest.mark.parametrize(
        ("text", "root_path"),
        [
            ("/", ""),
            (" // ", ""),
            ("backend", "/backend"),
            ("/backend/", "/backend"),
            (" backend/ ", "/backend"),
            ("//backend", "/backend"),
            ("/a/b-c_d~e.f", "/a/b-c_d~e.f"),
            ("...", "/..."),
        ],
    )
    def test_begins_with_a_slash_and_ends_without_one(
        self, monkeypatch: pytest.MonkeyPatch, text: str, root_path: str
    ) -> None:
        set_variables(monkeypatch, ROOT_PATH=text)
        assert Settings.read().root_path == root_path


class TestASpelling:
    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("DATABASE_RLS", "ON", "on"),
            ("DATABASE_RLS", "true", "on"),
            ("DATABASE_RLS", "1", "on"),
            ("DATABASE_RLS", "No", "off"),
            ("DATABASE_NETWORK", "Private", "private"),
            ("DATABASE_URL", f"'{DATABASE}'", SecretStr(DATABASE)),
            ("AUTH_MODE", "Shared_Secret", "shared-secret"),
            ("AUTH_ISSUER", f' "{ORIGIN}" ', ORIGIN),
            ("AUTH_ALGORITHMS", '["ES256", "RS256"]', ("ES256", "RS256")),
            ("BETTER_AUTH_URL", f'"{ORIGIN}/"', ORIGIN),
            ("BETTER_AUTH_URL", f"{ORIGIN}:443", ORIGIN),
            ("CORS_ORIGINS", f"{ORIGIN}/", (ORIGIN,)),
            ("CORS_ORIGINS", f"{ORIGIN};{LOCAL}", (ORIGIN, LOCAL)),
            ("CORS_ORIGINS", f"{ORIGIN} {LOCAL}", (ORIGIN, LOCAL)),
            ("CORS_ORIGINS", f'["{ORIGIN}", "{LOCAL}"]', (ORIGIN, LOCAL)),
            ("CORS_ORIGINS", f"['{ORIGIN}']", (ORIGIN,)),
            ("CORS_ORIGINS", f'"{ORIGIN}","{LOCAL}"', (ORIGIN, LOCAL)),
            ("CORS_ORIGINS", "http://[::1]:3000", ("http://[::1]:3000",)),
            ("REDIS_URL", f"'{REDIS}'", SecretStr(REDIS)),
            ("RATE_LIMIT", "OFF", "off"),
            ("RATE_LIMIT", "600/Minute", "600/minute"),
            ("RATE_LIMIT_AUTH_FAILURES", "none", "off"),
            ("FORWARDED_ALLOW_IPS", "10.0.0.0/8 fd00::/8", ("10.0.0.0/8", "fd00::/8")),
            ("METRICS", "1", "on"),
            ("METRICS", "False", "off"),
            ("METRICS", "' 9090 '", 9090),
            ("HOST", "[::1]", "::1"),
            ("HOST", "localhost", "localhost"),
            ("DATA_DIR", "~/todo", Path("~/todo").expanduser()),
            ("PORT", " 8001 ", 8001),
            ("PORT", '"8001"', 8001),
            ("PORT", '""', 8000),
            ("PORT", " ", 8000),
            ("LOG_LEVEL", "INFO ", "info"),
            ("LOG_LEVEL", "WARN", "warning"),
            ("LOG_FORMAT", "JSON", "json"),
            ("BETTER_AUTH_SECRET", f'"{SECRET}" ', SecretStr(f'"{SECRET}" ')),
        ],
    )
    def test_is_understood(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
    ) -> None:
        monkeypatch.setenv(variable, text)
        assert getattr(Settings.read(), variable.lower()) == value


class TestOrigins:
    @pytest.mark.parametrize(
        ("text", "origin"),
        [
            ("https://app.example.com:443", ORIGIN),
            ("http://localhost:80", "http://localhost"),
            ("https://app.example.com:8443", "https://app.example.com:8443"),
            ("HTTPS://App.Example.COM", ORIGIN),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("ionic://localhost", "ionic://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            ("app://bundle:80", "app://bundle:80"),
            ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ],
    )
    def test_are_written_as_browsers_and_native_shells_send_them(
        self, monkeypatch: pytest.MonkeyPatch, text: str, origin: str
    ) -> None:
        set_variables(monkeypatch, CORS_ORIGINS=text)
        assert Settings.read().cors_origins == (origin,)


class TestSecrets:
    def test_are_in_no_repr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(
            monkeypatch,
            DATABASE_URL=DATABASE,
            DATABASE_URL_DIRECT=DATABASE,
            REDIS_URL=REDIS,
            AUTH_MODE="shared-secret",
            BETTER_AUTH_SECRET=SECRET,
        )
        settings = Settings.read()
        shown = f"{settings!r} {settings} {settings.auth()!r} {settings.model_dump()}"
        assert "hunter2" not in shown
        assert SECRET not in shown

    def test_are_not_in_errors_about_other_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, DATABASE_URL=DATABASE, BETTER_AUTH_SECRET=SECRET, PORT="x")
        assert "hunter2" not in settings_error()
        assert SECRET not in settings_error()


class TestJwksMode:
    @pytest.mark.parametrize("url", [ORIGIN, f"{ORIGIN}/"])
    def test_derives_everything_from_the_auth_servers_origin(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        set_variables(monkeypatch, BETTER_AUTH_URL=url)
        assert Settings.read().auth() == JwksAuth(
            url=f"{ORIGIN}/api/auth/jwks",
            issuer=ORIGIN,
            audience=ORIGIN,
            algorithms=("EdDSA", "ES256", "RS256"),
        )

    def test_keeps_the_origins_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, BETTER_AUTH_URL=LOCAL)
        auth = Settings.read().auth()
        assert (auth.issuer, auth.audience) == (LOCAL, LOCAL)

    @pytest.mark.parametrize(
        ("variable", "text", "expected"),
        [
            (
                "AUTH_JWKS_URL",
                "http://auth:3000/keys",
                JwksAuth("http://auth:3000/keys", ORIGIN, ORIGIN, ("ES256",)),
            ),
            (
                "AUTH_ISSUER",
                "issuer",
                JwksAuth(f"{ORIGIN}/api/auth/jwks", "issuer", ORIGIN, ("ES256",)),
            ),
            (
                "AUTH_AUDIENCE",
                "todo",
                JwksAuth(f"{ORIGIN}/api/auth/jwks", ORIGIN, "todo", ("ES256",)),
            ),
        ],
    )
    def test_prefers_the_variable_of_each_part(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, expected: JwksAuth
    ) -> None:
        set_variables(monkeypatch, BETTER_AUTH_URL=ORIGIN, AUTH_ALGORITHMS="ES256")
        monkeypatch.setenv(variable, text)
        assert Settings.read().auth() == expected

    def test_needs_no_origin_if_every_part_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = "https://keys.example/jwks"
        set_variables(monkeypatch, AUTH_JWKS_URL=keys, AUTH_ISSUER="me", AUTH_AUDIENCE="you")
        auth = Settings.read().auth()
        assert auth == JwksAuth(keys, "me", "you", ("EdDSA", "ES256", "RS256"))

    @pytest.mark.parametrize(
        "variables",
        [{}, {"AUTH_JWKS_URL": "https://keys.example"}, {"AUTH_ISSUER": "x", "AUTH_AUDIENCE": "x"}],
    )
    def test_without_an_origin_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
    ) -> None:
        set_variables(monkeypatch, **variables)
        (line,) = auth_error().splitlines()
        assert line.startswith("BETTER_AUTH_URL is missing: ")

    def test_ignores_the_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, BETTER_AUTH_URL=ORIGIN, BETTER_AUTH_SECRET=SECRET)
        assert isinstance(Settings.read().auth(), JwksAuth)


class TestSharedSecretMode:
    def test_uses_the_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, AUTH_MODE="shared-secret", BETTER_AUTH_SECRET=SECRET)
        assert Settings.read().auth() == SharedSecretAuth(SecretStr(SECRET), None, None)

    def test_uses_issuer_and_audience_if_they_are_set(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_variables(monkeypatch, AUTH_MODE="shared-secret", BETTER_AUTH_SECRET=SECRET)
        set_variables(monkeypatch, AUTH_ISSUER="me", AUTH_AUDIENCE="you")
        assert Settings.read().auth() == SharedSecretAuth(SecretStr(SECRET), "me", "you")

    def test_without_a_secret_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, AUTH_MODE="shared-secret")
        (line,) = auth_error().splitlines()
        assert line.startswith("BETTER_AUTH_SECRET is missing: ")

    def test_with_a_key_set_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, AUTH_MODE="shared-secret", BETTER_AUTH_SECRET=SECRET)
        set_variables(monkeypatch, AUTH_JWKS_URL="https://keys.example/jwks")
        (line,) = auth_error().splitlines()
        assert "AUTH_MODE" in line
        assert "AUTH_JWKS_URL" in line
        assert "exclude each other" in line


class TestConfiguresAuth:
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, False),
            ({"AUTH_ISSUER": "me"}, False),
            ({"BETTER_AUTH_SECRET": SECRET}, False),
            ({"BETTER_AUTH_URL": ORIGIN}, True),
            ({"AUTH_JWKS_URL": "https://keys.example/jwks"}, True),
            ({"AUTH_MODE": "shared-secret"}, True),
        ],
    )
    def test_is_true_if_a_key_set_or_a_shared_secret_is_configured(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *, expected: bool
    ) -> None:
        set_variables(monkeypatch, **variables)
        assert Settings.read().configures_auth == expected
