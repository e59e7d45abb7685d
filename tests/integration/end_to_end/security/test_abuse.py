"""The running service against people who mean it harm: no 5xx, no hang, nothing smuggled.

What no HTTP client would send goes over raw sockets.
"""

import json
import re
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.service import PATIENCE, Sandbox, Service, eventually
from support.tasks import HOSTILE_TEXTS
from todo_adapters.postgres.url import DatabaseUrl

STALLED: Final = 150
CUT_WITHIN: Final = 60.0  # seconds
SILENT: Final = 1100  # more than the backlog, and than a server of threads could bear
CONCURRENCY: Final = 4
MIB: Final = 1024 * 1024

ADA: Final = as_user("ada")["Authorization"].encode()
MILK: Final = b'{"title":"milk"}'
LENGTH: Final = b"Content-Length: %d\r\n" % len(MILK)
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CHUNK: Final = b"%x\r\n%s\r\n" % (len(MILK), MILK)
# What must not be taken for a request while it is a part of one.
INNER: Final = b"GET /smuggled HTTP/1.1\r\nHost: todo\r\n\r\n"
PROBE: Final = b"GET /health/live HTTP/1.1\r\nHost: todo\r\nConnection: close\r\n\r\n"


def get(target: bytes = b"/health/live", fields: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: todo\r\n%s\r\n" % (target, fields)


def post(fields: bytes, body: bytes = b"", *, token: bytes = ADA) -> bytes:
    head = b"Host: todo\r\nContent-Type: application/json\r\nAuthorization: %s\r\n" % token
    return b"POST /api/tasks HTTP/1.1\r\n%s%s\r\n%s" % (head, fields, body)


def chunked(chunks: bytes) -> bytes:
    return post(CHUNKED, chunks)


# --- The service, and connections to it ---


@pytest.fixture(scope="module")
async def settings(
    server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]
) -> dict[str, str]:
    await branch("abused")
    url = urlsplit(server_url)._replace(path="/abused").geturl()
    return {
        "DATABASE_URL": url,
        **AUTH_SETTINGS,
        "RATE_LIMIT": "off",
        "RATE_LIMIT_AUTH_FAILURES": "off",
    }


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Allow this process, and the service that it starts, enough connections."""
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, 4 * SILENT), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, settings: dict[str, str], many_files: None) -> Iterator[Service]:
    del many_files
    with sandbox.serving("serve", **settings) as service:
        yield service
    assert '"status":5' not in service.stdout
    assert "internal_error" not in service.stdout
    assert "Traceback" not in service.stdout + service.stderr


@pytest.fixture(scope="module", autouse=True)
def stalled(service: Service) -> Iterator[list[socket.socket]]:
    """Clients that began something at the start of these tests and never go on."""
    with ExitStack() as opened:
        connections = [opened.enter_context(connected(service)) for _ in range(STALLED)]
        for number, connection in enumerate(connections):
            connection.sendall(STALLS[number % len(STALLS)])
        yield connections


STALLS: Final = (
    b"",
    b"GET /health/live HTT",
    get()[:-2],
    post(LENGTH, MILK[:-1]),
    post(CHUNKED, CHUNK[:-3]),
    post(CHUNKED, b"ffffffffffffffff\r\n" + MILK),
    post(LENGTH, MILK[:-1], token=b"Bearer x"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    b"PRI * HTTP/2.0\r\n",
)


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        yield connection


def exchange(service: Service, request: bytes, *, and_leave: bool = False) -> bytes:
    """All that is answered until the service closes the connection, whether it read all or not."""
    with connected(service) as connection, suppress(ConnectionError):
        with suppress(ConnectionError):
            connection.sendall(request)
        if and_leave:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(MIB), b""))
    return b""


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def code(answer: bytes) -> str | None:
    """The code of the one problem."""
    found = re.findall(rb'"code":"(\w+)"', answer)
    return found[0].decode() if len(found) == 1 else None


def lives(service: Service) -> bool:
    return statuses(exchange(service, PROBE)) == [200]


# --- Framing: where a request ends is never in doubt ---

FRAMES: Final[dict[str, tuple[bytes, list[int]]]] = {
    "pipelined": (get() + get(), [200, 200, 200]),
    "chunked": (chunked(CHUNK + b"0\r\n\r\n"), [201, 200]),
    "chunk extension": (chunked(b"10;a=b\r\n" + CHUNK[4:] + b"0\r\n\r\n"), [201, 200]),
    "trailer": (chunked(CHUNK + b"0\r\nAuthorization: x\r\n\r\n"), [201, 200]),
    "the same length twice": (post(LENGTH * 2, MILK), [201, 200]),
    "body of a GET": (get(fields=b"Content-Length: %d\r\n" % len(INNER)) + INNER, [200, 200]),
    "body nobody asked for": (
        get(b"/x", b"Content-Length: %d\r\n" % len(INNER)) + INNER,
        [404, 200],
    ),
    "body of a stranger": (
        post(b"Content-Length: %d\r\n" % len(INNER), INNER, token=b"x"),
        [401, 200],
    ),
    "body that is a request": (post(b"Content-Length: %d\r\n" % len(INNER), INNER), [400, 200]),
    "body longer than declared": (post(LENGTH, MILK + b"\0" + INNER), [201, 400]),
    "length and chunks": (post(LENGTH + CHUNKED, CHUNK + b"0\r\n\r\n" + INNER), [201]),
    "chunks and length": (post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n" + INNER), [400]),
    "two lengths": (post(LENGTH + b"Content-Length: 5\r\n", MILK + INNER), [400]),
    "list of lengths": (post(b"Content-Length: 16, 16\r\n", MILK + INNER), [400]),
    "signed length": (post(b"Content-Length: +16\r\n", MILK + INNER), [400]),
    "negative length": (post(b"Content-Length: -1\r\n", MILK + INNER), [400]),
    "hexadecimal length": (post(b"Content-Length: 0x10\r\n", MILK + INNER), [400]),
    "empty length": (post(b"Content-Length: \r\n", MILK + INNER), [400]),
    "endless length": (post(b"Content-Length: %s\r\n" % (b"9" * 30), MILK + INNER), [400]),
    "largest length": (post(b"Content-Length: 18446744073709551615\r\n", MILK), [431]),
    "Arabic length": (post("Content-Length: \u0661\u0666\r\n".encode(), MILK + INNER), [400]),
    "space before colon": (post(b"Content-Length : 16\r\n", MILK + INNER), [400]),
    "folded line": (post(b"X-A: b\r\n c\r\n" + LENGTH, MILK + INNER), [400]),
    "folded coding": (post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + INNER), [400]),
    "unknown coding": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n" + INNER), [400]),
    "identity": (post(b"Transfer-Encoding: identity\r\n" + LENGTH, MILK + INNER), [400]),
    "chunked, not last": (
        post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + INNER),
        [400],
    ),
    "two codings": (
        post(CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n" + INNER),
        [400],
    ),
    "tab before coding": (
        post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n" + INNER),
        [400],
    ),
    "chunked in HTTP/1.0": (
        chunked(b"0\r\n\r\n" + INNER).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        [400],
    ),
    "negative chunk": (chunked(b"-10\r\n" + MILK + b"\r\n0\r\n\r\n" + INNER), [400]),
    "hexadecimal chunk": (chunked(b"0x10\r\n" + MILK + b"\r\n0\r\n\r\n" + INNER), [400]),
    "endless chunk": (chunked(b"f" * 17 + b"\r\n" + MILK + b"\r\n0\r\n\r\n" + INNER), [400]),
    "chunk without size": (chunked(b"\r\n" + MILK + b"\r\n0\r\n\r\n" + INNER), [400]),
    "chunk without end": (chunked(b"10\r\n" + MILK + b"0\r\n\r\n" + INNER), [400]),
    "chunk by line feeds": (chunked(b"10\n" + MILK + b"\n0\n\n" + INNER), [400]),
    "line feed in extension": (chunked(b"10;a\nb\r\n" + MILK + b"\r\n0\r\n\r\n" + INNER), [400]),
    "bad trailer": (chunked(CHUNK + b"0\r\nX y\r\n\r\n" + INNER), [400]),
    "bare carriage return": (get(fields=b"X-A: a\rX-B: b\r\n"), [400]),
    "NUL in a value": (get(fields=b"X-A: a\0b\r\n"), [400]),
    "NUL in a name": (get(fields=b"X\0A: b\r\n"), [400]),
    "NUL in the target": (get(b"/health\0/live"), [400]),
    "no UTF-8 in the target": (get(b"/api/tasks/\xff\xfe"), [400]),
    "field without colon": (get(fields=b"nothing\r\n"), [400]),
    "field without name": (get(fields=b": x\r\n"), [400]),
    "space in front of a field": (b"GET / HTTP/1.1\r\n Host: todo\r\n\r\n", [400]),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: todo\r\n\r\n", [400]),
    "method that is none": (b"G(T / HTTP/1.1\r\nHost: todo\r\n\r\n", [400]),
    "HTTP/0.9": (b"GET /health/live\r\n\r\n", [400]),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: todo\r\n\r\n", [400]),
    "TLS": (bytes.fromhex("16030100ff01") + bytes(100), [400]),
    "every octet": (bytes(range(256)) * 4, [400]),
}


class TestFraming:
    @pytest.mark.parametrize(("sent", "expected"), FRAMES.values(), ids=FRAMES)
    def test_that_is_odd_hides_no_request(
        self, service: Service, sent: bytes, expected: list[int]
    ) -> None:
        answer = exchange(service, sent + PROBE)
        assert statuses(answer) == expected
        assert b"smuggled" not in answer

    def test_may_be_by_line_feeds_alone_in_heads(self, service: Service) -> None:
        assert statuses(exchange(service, PROBE.replace(b"\r\n", b"\n"))) == [200]

    def test_is_never_that_of_http_2(self, service: Service) -> None:
        answer = exchange(
            service, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        )
        assert answer == b"" or statuses(answer) == [400]

    def test_that_ends_early_is_told(self, service: Service) -> None:
        answer = exchange(service, post(LENGTH, MILK[:-1]), and_leave=True)
        assert (statuses(answer), code(answer)) == ([400], "bad_request")

    def test_of_a_body_that_waits_for_leave_is_refused_without_it(self, service: Service) -> None:
        answer = exchange(service, post(LENGTH + b"Expect: 100-continue\r\n", token=b"x"))
        assert (statuses(answer), code(answer)) == ([401], "token_missing")


# --- Limits: what is too large is refused before it is held ---


def fields(size: int) -> bytes:
    return b"X-Large: %s\r\n" % (b"a" * size)


class TestBounds:
    def test_body_of_1_mib_is_read(self, service: Service) -> None:
        sent = post(b"Connection: close\r\nContent-Length: %d\r\n" % MIB, MILK.ljust(MIB))
        assert statuses(exchange(service, sent)) == [201]

    def test_body_declared_larger_is_refused_unread(self, service: Service) -> None:
        answer = exchange(service, post(b"Content-Length: %d\r\n" % (MIB + 1)))
        assert (statuses(answer), code(answer)) == ([413], "body_too_large")

    def test_body_that_grows_larger_is_refused_unended(self, service: Service) -> None:
        chunk = b"10000\r\n" + bytes(64 * 1024) + b"\r\n"
        answer = exchange(service, chunked(chunk * 16 + b"1\r\nx\r\n"))
        assert (statuses(answer), code(answer)) == ([413], "body_too_large")

    @pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
    def test_depth_is_no_more_than_malformed(self, service: Service, opening: bytes) -> None:
        body = opening * 100_000
        sent = post(b"Connection: close\r\nContent-Length: %d\r\n" % len(body), body)
        answer = exchange(service, sent)
        assert (statuses(answer), code(answer)) == ([400], "malformed_json")

    def test_headers_of_16_kib_are_read(self, service: Service) -> None:
        assert statuses(exchange(service, get(fields=fields(15 * 1024)) + PROBE)) == [200, 200]

    @pytest.mark.parametrize("target", [b"/health/live", b"/api/tasks", b"/nowhere"])
    def test_larger_headers_are_refused(self, service: Service, target: bytes) -> None:
        answer = exchange(service, get(target, fields(17 * 1024)) + PROBE)
        assert (statuses(answer), code(answer)) == ([431, 200], "headers_too_large")

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(get(fields=fields(200 * 1024)), id="one field"),
            pytest.param(get(fields=b"X-A: 1\r\n" * 1000), id="a thousand fields"),
            pytest.param(get(b"/" + b"a" * 200 * 1024), id="target"),
        ],
    )
    def test_a_far_larger_head_is_refused_unread(self, service: Service, sent: bytes) -> None:
        assert statuses(exchange(service, sent)) == [431]

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(get(fields=fields(5 * MIB)), id="head"),
            pytest.param(b"A" * 5 * MIB, id="method"),
            pytest.param(b"\r\n" * MIB, id="empty lines"),
            pytest.param(
                post(b"Content-Length: %d\r\n" % (5 * MIB), bytes(5 * MIB)), id="declared body"
            ),
            pytest.param(
                chunked((b"10000\r\n" + bytes(64 * 1024) + b"\r\n") * 80), id="chunked body"
            ),
        ],
    )
    def test_what_is_pushed_regardless_is_cut_off(self, service: Service, sent: bytes) -> None:
        assert set(statuses(exchange(service, sent))) <= {400, 413, 431}
        assert lives(service)

    @pytest.mark.parametrize(
        "target", [b"/api/tasks?q=" + b"a" * 9000, b"/api/tasks/" + b"a" * 9000]
    )
    def test_long_targets_are_refused(self, service: Service, target: bytes) -> None:
        answer = exchange(service, get(target, b"Authorization: %s\r\n" % ADA) + PROBE)
        assert (statuses(answer), code(answer)) == ([414, 200], "uri_too_long")

    @pytest.mark.parametrize("size", [8 * 1024, 15 * 1024])
    def test_long_tokens_are_refused(self, service: Service, size: int) -> None:
        token = b"Authorization: Bearer %s\r\n" % (b"a" * size)
        answer = exchange(service, get(b"/api/tasks", token) + PROBE)
        assert (statuses(answer), code(answer)) == ([401, 200], "token_malformed")

    def test_silent_connections_keep_nobody_out(self, service: Service) -> None:
        with ExitStack() as opened:
            for _ in range(SILENT):
                opened.enter_context(connected(service))
            assert lives(service)


class TestConcurrency:
    def test_beyond_the_bound_is_shed_while_health_answers(
        self, sandbox: Sandbox, settings: dict[str, str]
    ) -> None:
        bound = {"MAX_CONCURRENT_REQUESTS": str(CONCURRENCY)}
        with (
            sandbox.serving("serve", **settings | bound) as service,
            service.client() as ada,
            ExitStack() as opened,
        ):
            ada.headers["Authorization"] = ADA.decode()

            def begin_one_more() -> bool:
                opened.enter_context(connected(service)).sendall(post(LENGTH, MILK[:-1]))
                return ada.get("/api/me").status_code == 503

            assert eventually(begin_one_more)
            shed = ada.get("/api/me")
            assert shed.json()["code"] == "overloaded"
            assert int(shed.headers["Retry-After"]) > 0
            assert ada.get("/health/live").status_code == 200
            assert ada.get("/health/ready").status_code == 200

            opened.close()
            assert eventually(lambda: ada.get("/api/me").status_code == 200)

    def test_is_not_taken_up_by_strangers(self, sandbox: Sandbox, settings: dict[str, str]) -> None:
        with (
            sandbox.serving("serve", **settings | {"MAX_CONCURRENT_REQUESTS": "1"}) as service,
            connected(service) as stranger,
        ):
            stranger.sendall(post(LENGTH, MILK[:-1], token=b"x"))
            assert statuses(stranger.recv(MIB)) == [401]
            assert statuses(exchange(service, get(b"/api/me", b"Connection: close\r\n"))) == [401]


# --- Hostile content: it is refused, or it comes back as it was sent ---

MALFORMED: Final = (
    b"", b" ", b"\0", b"{", b"}", b"[", b"]", b"{]", b"[}", b",", b":", b'"', b"'", b"\\", b'{"a"',
    b'{"a":', b'{"a":}', b'{"a" 1}', b'{"a":1,}', b'{,"a":1}', b'{"a":1,,"b":2}', b"{a:1}",
    b"{'a':1}", b"{1:1}", b'{"a":1 "b":2}', b'{"a":1}}', b'{"a":1}{"a":1}', b"[1,]", b"[,1]",
    b"[1 2]", b"[1:2]", b"[", b"[1", b'["', b"[[[[", b"]]]]", b"01", b"+1", b"1.", b".1", b"-",
    b"-.1", b"1e", b"1e+", b"0x1", b"0b1", b"1_0", b"\xef\xbc\x91", b"NaN", b"Infinity",
    b"-Infinity", b"nan", b"True", b"None", b"nul", b"undefined", b"truer", b'"\t"', b'"\n"',
    b'"\0"', b'"\\x41"', b'"\\u12"', b'"\\u12G4"', b'"\\U00000041"', b'"\\"', b'"\xff"',
    b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"', b"\x80",
    b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}",
    b"{}\xef\xbb\xbf", b"// {}", b"{} # x", b"/**/{}", b"<a/>", b"title=milk",
    b"--b\r\n\r\n{}\r\n--b--", b"\x1f\x8b\x08", b"\xc2\xa0{}", b"\x0c{}", b"\x0b{}", b"{}\0",
    b"9" * 5000, b"[" * 50_000, b'{"a":' * 50_000, "\u2028{}".encode(),
    "{\u201ctitle\u201d: 1}".encode(), "\u3000{}".encode(),
)  # fmt: skip

NO_DATES: Final = (
    b"0", b"1e18", b'" "', b'"today"', b'"2026-02-30"', b'"0000-01-01"', b'"10000-01-01"',
    b'"2026-01-01T24:00:00Z"', b'"2026-01-01T00:00:00"', b'"0001-01-01T00:00:00+23:59"',
)  # fmt: skip

# JSON all the same, but no task.
BORDERLINE: Final = (
    b"0", b"-0", b"1e999", b"-1e999", b"1E-999", b"null", b"true", b'""', b"[]", b"[[]]", b"{}",
    b" \t\r\n{} ", b'{"":0}', b'{"\\u0000":0}', b'{"__proto__":{"title":"x"}}', b"[1e5,0.1]",
    b'{"title":null}', b'{"title":1}', b'{"title":true}', b'{"title":[]}', b'{"title":{}}',
    b'{"title":"x","title":""}', b'{"title":"\\ud800"}', b'{"title":"\\udc00\\ud800"}',
    b'{"title":"\\u0000"}', b'{"title":"\\u2003\\u00a0"}', b'{"title":"%s"}' % (b"x" * 201),
    *(b'{"title":"x","completed":%s}' % value for value in (b"1", b"0", b'"true"', b"null", b"[]")),
    *(b'{"title":"x","tags":%s}' % value for value in (b'"a"', b"[1]", b'[""]', b"[[]]", b"{}")),
    *(b'{"title":"x","priority":%s}' % value for value in (b"1", b'" "', b'"urgent"', b"[]")),
    *(b'{"title":"x","due_date":%s}' % value for value in NO_DATES),
)  # fmt: skip

# Each could be a title, so none begins or ends with white space.
NAUGHTY: Final = (
    *HOSTILE_TEXTS, "null", "None", "undefined", "NaN", "true", "-0", "1e999", "0x1", "1,000.00",
    "constructor", "__proto__", "CON", "nul.txt", "../../../../etc/passwd", "C:\\boot.ini",
    "file:///etc/passwd", "' OR '1'='1", "1; DROP TABLE todo.tasks", "\\'; --",
    "$$;SELECT pg_sleep(9);$$", "E'\\x00'", "%s%n%x%d", "{0.__class__}", "{{7*7}}", "${7*7}",
    "<%= 7 %>", "#{7}", "$(reboot)", "`id`", "|id", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "javascript:alert(1)", "&#x3C;", "]]>", "<!--",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///dev/null'>]>&e;", "*)(uid=*))(|(uid=*",
    '{"title":"x"}', '","completed":true,"x":"', "\\", "\\\\", '\\"', "\\u0000", "\\n", "/", "//",
    "a\r\nSet-Cookie: a=b", "a\r\n\r\nHTTP/1.1 200 OK", "a\x1b[31mred\x1b[0m", "a\x07\x08b", "\x1b",
    "=1+1", "@SUM(1)", "+1", "-1", "a,b;c\td", "%00", "%0d%0a", "%2e%2e%2f", "?q=&", "a#b", "a;b",
    "a\u2028b\u2029c", "a\u0085b", "a\u00adb", "\ufeffa", "a\u200bb", "\u2060a", "\ufffd",
    "\ufffe\uffff", "\U0001fffe", "\U0010fffd", "\ue000", "a\U000e0001\U000e0041", "a\ufe0f",
    "a\u180e", "\u115f\u3164a", "a\u0301\u0316" * 30, "\u202eabc", "\u2066a\u2069", "\u061ca",
    "\u200fa", "\ufdfa", "\ufb03", "\u1e9e", "\u0130I\u0131i", "\u017f", "\u00df",
    "\u03a3\u03c3\u03c2", "\u01c4", "\u212a\u212b", "\uff21", "\u2460", "\U0001d573\U0001d58a",
    "部落格", "社會科學院語學研究所", "表ポあA鷗", "찦차", "𠜎𠜱", "Ω≈ç√", "⁰⁴⁵",
    "สวัสดี", "मनीष منش", "👾🙇", "👩🏽",
    "👨‍👩‍👧", "🇷🇺🇸🇪", "0️⃣", "🏴\U000e0067\U000e0062\U000e007f", "❤️", "(╯°□°)╯", "\U0001f1e6",
    "x" * 200, "😀" * 200, "\u0301" * 200, "'" * 200, "\\" * 200, "%" * 200,
    "_" * 200, "\x01" * 200,
)  # fmt: skip


@pytest.fixture(scope="module")
def ada(service: Service) -> Iterator[httpx.Client]:
    with service.client() as ada:
        ada.headers.update({"Authorization": ADA.decode(), "Content-Type": "application/json"})
        yield ada


class TestContent:
    def test_that_is_no_json_is_400(self, ada: httpx.Client) -> None:
        answers = {body: ada.post("/api/tasks", content=body) for body in MALFORMED}
        assert {b for b, answer in answers.items() if answer.status_code != 400} == set()
        assert {answer.json()["code"] for answer in answers.values()} == {"malformed_json"}

    def test_that_is_no_task_is_422(self, ada: httpx.Client) -> None:
        answers = {body: ada.post("/api/tasks", content=body) for body in BORDERLINE}
        assert {b for b, answer in answers.items() if answer.status_code != 422} == set()

    @pytest.mark.parametrize("escaped", [False, True])
    def test_comes_back_as_it_was_sent(self, ada: httpx.Client, *, escaped: bool) -> None:
        for text in NAUGHTY:
            sent = {"title": text, "description": f" {text}\n", "tags": [text[:50].strip() or "x"]}
            body = json.dumps(sent, ensure_ascii=escaped)
            created = ada.post("/api/tasks", content=body.encode())
            assert created.status_code == 201, (text, created.text)
            stored = ada.get(created.headers["Location"]).json()
            assert {name: stored[name] for name in sent} == sent

    def test_is_found_by_itself_and_nothing_else(self, ada: httpx.Client) -> None:
        for text in ("%", "_", "\\", "'", '"', "%_\\'", "\u202ex", "😀\u0301"):
            title = f"{text} {text!a}"
            task = ada.post("/api/tasks", json={"title": title, "tags": [text]}).json()
            assert [*ada.get("/api/tasks", params={"q": title}).json()] == [task]
            found = ada.get("/api/tasks", params={"tag": text, "sort": "title"}).json()
            assert task in found
            assert all(text in other["tags"] for other in found)

    def test_cannot_say_what_is_the_services_to_say(self, ada: httpx.Client) -> None:
        claims = {
            "id": "00000000-0000-0000-0000-000000000000",
            "user_id": "eve",
            "owner": "eve",
            "version": 99,
            "created_at": "1970-01-01T00:00:00Z",
            "completed_at": "1970-01-01T00:00:00Z",
            "deleted_at": "1970-01-01T00:00:00Z",
            "is_admin": True,
        }
        created = ada.post("/api/tasks", json={"title": "mine", **claims}).json()
        whole = {"title": "mine", **claims}
        changed = ada.put(f"/api/tasks/{created['id']}", json=whole).json()
        assert changed == created
        assert created["user_id"] == "ada"
        assert created["version"] == 1
        assert created["completed_at"] is None


# --- Tampering with everything around it ---

TARGETS: Final = (
    "/api/tasks/..%2f..%2fhealth%2flive", "/api/tasks/%2e%2e/me", "/api/../api/tasks",
    "/api/tasks/%00", "/api/tasks/%ff%fe", "/api/tasks/%zz", "/api/tasks/%",
    "/api/tasks/%0d%0aX:a", "/api/tasks/{task_id}", "/api/tasks/*", "/api/tasks/;a=b",
    "/api/tasks/1%20OR%201=1", "/api/tasks/%F0%9F%98%80", "/api/tasks/0", "/api/tasks/-1",
    "/api/tasks/ffffffff-ffff-ffff-ffff-ffffffffffff", "/api/tasks/None", "/api/%00/tasks",
    "/api/%ed%a0%80/tasks", "/api/eve/tasks", "/api/ada%2f/tasks", "/api/ADA/tasks",
    "/api/tasks%2fx%2fy", "/API/TASKS", "/api/tasks/x/complete/y", "/health/live/../../api/tasks",
    "/.env", "/.git/config", "/docs/..%2f..%2fsetup.py", "/docs/%2e%2e/app.py", "/problems/%00",
    "/problems/__class__", "/openapi.json.bak",
)  # fmt: skip

QUERIES: Final = (
    "limit=0", "limit=-1", "limit=1001", "limit=1e3", "limit=0x10", "limit=" + "9" * 4000,
    "limit=%D9%A1", "limit=1_0", "limit=1&limit=x", "status=dome", "status=5", "completed=1",
    "sort=id", "sort=title;", "sort=--title", "sort=title,id", "order=up", "priority=urgent",
    "priority=1", "tag=+", "tag=%00", "tag=" + "x" * 51, "q=%00", "q=" + "x" * 201,
    "q=%ED%A0%80x%00", "cursor=+", "cursor=x", "cursor=%00", "cursor=AAAA", "cursor=" + "A" * 4000,
    "cursor=..%2f", "cursor=%F0%9F%98%80", "cursor=====", "cursor=eyJ", "due_before=yesterday",
    "due_before=0", "due_after=2026-02-30", "due_after=9999-12-31T23:59:59-01:00",
    "due_before=2026-01-01T00:00:00+99:99", "due_after=%00", "due_before=2026-01-01%27--",
)  # fmt: skip

METHODS: Final = (
    "TRACE", "TRACK", "CONNECT", "PROPFIND", "LOCK", "COPY", "SEARCH", "PURGE", "DEBUG", "get",
    "Post", "GETT", "A" * 4000, "!#$%&'*+-.^_`|~", "PRI", "M-SEARCH", "QUERY", "BREW",
)  # fmt: skip

HOSTS: Final = (
    "evil.example", "", "127.0.0.1:1", "todo@evil.example", "todo/../x", "a" * 4000, "[::1]",
    "\xff", "<script>", "todo, evil.example", "todo:99999999", "_", "xn--a", "%00", "{{7*7}}", '"',
)  # fmt: skip


NOTHING: Final = ([403, 200], [404, 200], [405, 200])


class TestTampering:
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    def test_with_the_path_finds_nothing(self, service: Service, method: str) -> None:
        fields = b"Authorization: %s\r\nContent-Type: application/json\r\n" % ADA
        answers = {}
        for target in TARGETS:
            head = f"{method} {target} HTTP/1.1\r\nHost: todo\r\nContent-Length: 2\r\n".encode()
            answers[target] = statuses(exchange(service, head + fields + b"\r\n{}" + PROBE))
        found = {target: those for target, those in answers.items() if those not in NOTHING}
        assert found == {}

    def test_with_the_query_is_refused(self, service: Service) -> None:
        token = b"Authorization: %s\r\n" % ADA
        answers = {
            query: statuses(exchange(service, get(f"/api/tasks?{query}".encode(), token) + PROBE))
            for query in QUERIES
        }
        expected = {query: [400 if "cursor" in query else 422, 200] for query in QUERIES}
        assert answers == expected

    def test_with_a_cursor_is_told(self, ada: httpx.Client) -> None:
        for title in "ab":
            ada.post("/api/tasks", json={"title": title})
        cursor = ada.get("/api/tasks?limit=1").links["next"]["url"].partition("cursor=")[2]
        others = "AQgw_-.=~ %\u00e9\0"
        tampered = {
            cursor[:n] + other + cursor[n + 1 :] for n in range(len(cursor)) for other in others
        }
        tampered |= {cursor[:n] for n in range(1, len(cursor))} | {
            cursor * 2,
            cursor + "A",
            cursor.swapcase(),
        }
        answers = [
            ada.get("/api/tasks", params={"limit": "1", "cursor": c}) for c in tampered - {cursor}
        ]
        assert {answer.status_code for answer in answers} == {400}
        assert {answer.json()["code"] for answer in answers} == {"bad_cursor"}

    @pytest.mark.parametrize("target", ["/api/tasks", "/health/live", "/docs", "*", "todo:443"])
    def test_with_the_method_is_refused(self, service: Service, target: str) -> None:
        for method in METHODS:
            head = f"{method} {target} HTTP/1.1\r\nHost: todo\r\n".encode()
            answer = exchange(service, head + b"Authorization: %s\r\n\r\n" % ADA + PROBE)
            assert statuses(answer) in ([405, 200], [404, 200], [400]), (method, answer)

    @pytest.mark.parametrize(
        "header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"]
    )
    def test_with_the_method_in_a_header_does_nothing(self, ada: httpx.Client, header: str) -> None:
        before = ada.get("/api/tasks").json()
        answer = ada.get("/api/tasks?_method=DELETE&status=completed", headers={header: "DELETE"})
        assert answer.status_code == 200
        assert ada.get("/api/tasks").json() == before

    def test_with_the_host_changes_no_answer(self, service: Service) -> None:
        plain = get(b"/api/tasks?limit=1&status=all", b"Authorization: %s\r\n" % ADA)
        expected = body_of(exchange(service, plain + PROBE))
        for host in HOSTS:
            tampered = plain.replace(b"Host: todo", f"Host: {host}".encode("latin-1"))
            others = (
                f"X-Forwarded-Host: {host}\r\nX-Original-URL: /metrics\r\nForwarded: host={host}"
            )
            tampered = tampered.replace(
                b"\r\n\r\n", b"\r\n" + others.encode("latin-1") + b"\r\n\r\n"
            )
            answer = exchange(service, tampered + PROBE)
            assert statuses(answer) in ([200, 200], [400]), (host, answer)
            assert body_of(answer) in (expected, b""), (host, answer)

    @pytest.mark.parametrize(
        "target", [b"http://evil.example/api/me", b"HTTPS://[::1]:1/api/me", b"ftp://a:b@c/api/me"]
    )
    def test_with_the_authority_leads_nowhere_else(self, service: Service, target: bytes) -> None:
        answer = exchange(service, get(target, b"Authorization: %s\r\n" % ADA) + PROBE)
        assert statuses(answer) in ([200, 200], [404, 200])
        assert b"evil" not in answer


def body_of(answer: bytes) -> bytes:
    """The first body, and the headers that may name an address."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return rest[: int(length[1])] if length else b""


# --- At the end: those who stalled at the beginning ---


class TestSlowClients:
    def test_do_not_slow_others(self, service: Service, ada: httpx.Client) -> None:
        for _ in range(100):
            assert ada.post("/api/tasks", json={"title": "milk"}).status_code == 201
        assert lives(service)

    def test_are_cut_off(self, stalled: list[socket.socket]) -> None:
        deadline = time.monotonic() + CUT_WITHIN
        for connection in stalled:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            answer = b"".join(iter(lambda: connection.recv(MIB), b""))  # noqa: B023 - used at once
            assert set(statuses(answer)) <= {200, 400, 401, 408}
