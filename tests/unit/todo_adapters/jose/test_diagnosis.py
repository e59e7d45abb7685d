"""How a rejected token and an unusable key set are explained to an operator."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import pytest

from support.jose_tokens import ABSENT, ORIGIN, better_auth_claims, key_set, signer
from support.postgres.pgbouncer import Certificate
from todo_adapters.jose.diagnosis import explain_rejection, inspect_key_set
from todo_adapters.jose.rejections import RejectionReason
from todo_domain.errors import AuthKeysUnavailable


def explained(reason: str, token: str, audience: str | None = ORIGIN) -> str:
    return explain_rejection(reason, token, issuer=ORIGIN, audience=audience)


@pytest.mark.parametrize("reason", RejectionReason)
def test_every_reason_has_an_explanation(reason: RejectionReason) -> None:
    assert explained(reason, "not a token").startswith("it")


def test_a_wrong_issuer_is_named_with_the_accepted_one() -> None:
    token = signer().token(better_auth_claims(iss="https://other.example"))
    explanation = explained("issuer", token)
    assert f"is https://other.example, but this service accepts {ORIGIN}:" in explanation


@pytest.mark.parametrize("reason", ["issuer", "audience"])
def test_a_missing_claim_is_named_as_missing(reason: str) -> None:
    token = signer().token(better_auth_claims(iss=ABSENT, aud=ABSENT))
    assert f"its {reason} is missing" in explained(reason, token)


def test_without_a_configured_audience_the_accepted_tokens_are_described() -> None:
    assert "accepts only tokens without aud:" in explained("audience", signer().token(), None)


# --- Key sets ---


def page(body: str, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body]).encode()


KEYS: Final = key_set(signer("EdDSA", "a").jwk(), signer("ES256", "b").jwk()).decode()
HTML: Final = "<!doctype html><p>Sign in</p>"
SYMMETRIC: Final = '{"keys": [{"kty": "oct", "k": "AAAA", "kid": "a", "alg": "HS256"}]}'


@asynccontextmanager
async def answering(content: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server on loopback that answers every request with this content."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1024)
            writer.write(content)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


async def explained_fetch(url: str) -> str:
    with pytest.raises(AuthKeysUnavailable) as caught:
        await inspect_key_set(url)
    return str(caught.value)


async def test_a_key_set_is_reported_with_its_algorithms_and_the_servers_clock() -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=2), usegmt=True)
    async with answering(page(KEYS, "200 OK", f"Date: {date}")) as port:
        report = await inspect_key_set(f"http://127.0.0.1:{port}/api/auth/jwks")
    assert report.algorithms == {"EdDSA": 1, "ES256": 1}
    assert report.clock_offset is not None
    assert timedelta(minutes=-3) < report.clock_offset < timedelta(minutes=-1)


@pytest.mark.parametrize(
    "header", ["X: y", "Date: yesterday", "Date: Fri, 27 Nov 2026 10:00 -0000"]
)
async def test_a_server_without_a_valid_date_has_an_unknown_clock(header: str) -> None:
    async with answering(page(KEYS, "200 OK", header)) as port:
        report = await inspect_key_set(f"http://127.0.0.1:{port}/")
    assert report.clock_offset is None


@pytest.mark.parametrize(
    ("content", "cause", "fix"),
    [
        (page("", "404 Not Found"), "status 404", "jwt() plugin"),
        (page("", "401 Unauthorized"), "status 401", "without authentication"),
        (page("", "403 Forbidden"), "status 403", "firewall"),
        (page("", "429 Too Many Requests"), "status 429", "try again"),
        (page("", "400 Bad Request"), "status 400", "https://"),
        (page("", "503 Service Unavailable"), "status 503", "log of the auth server"),
        (page(HTML, "200 OK", "Content-Type: text/html"), "HTML page", "jwt() plugin"),
        (
            page("", "307 Redirect", "Location: https://x.example/?k=1"),
            "https://x.example/",
            "write",
        ),
        (page("[]"), "no key set", "sign in once"),
        (page('{"keys": []}'), "empty set", "sign in once"),
        (page(SYMMETRIC), "no usable key", "sign in once"),
        (b"220 mail.example ESMTP\r\n", "not HTTP", "check the port"),
    ],
)
async def test_an_unusable_response_is_explained(content: bytes, cause: str, fix: str) -> None:
    async with answering(content) as port:
        url = f"http://127.0.0.1:{port}/api/auth/jwks"
        text = await explained_fetch(f"{url}?key=hunter2")
    assert text.startswith(f"{url}: ")
    assert cause in text
    assert fix in text
    assert "hunter2" not in text


async def test_https_for_a_server_without_tls_is_explained() -> None:
    async with answering(page(KEYS)) as port:
        text = await explained_fetch(f"https://127.0.0.1:{port}/")
    assert "TLS fails" in text
    assert "write http://" in text


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:1/jwks", "nothing listens at this host and port: check the port in"),
        ("http://no-such-host.invalid/jwks", "the host has no address: check the name in"),
    ],
)
async def test_an_unreachable_server_is_explained(url: str, cause: str) -> None:
    assert f"{url}: {cause} BETTER_AUTH_URL or AUTH_JWKS_URL" in await explained_fetch(url)


async def test_an_unreachable_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://ada:hunter2@127.0.0.1:1")
    text = await explained_fetch("http://auth.example/jwks")
    assert "through the proxy of http_proxy" in text
    assert "hunter2" not in text


async def test_an_untrusted_certificate_is_explained_with_the_reason(tmp_path: Path) -> None:
    certificate = Certificate.issued(tmp_path / "tls", "127.0.0.1")
    async with answering(page(KEYS), certificate.context()) as port:
        text = await explained_fetch(f"https://127.0.0.1:{port}/")
    assert "the certificate is not valid (unable to get local issuer certificate): " in text
    assert "SSL_CERT_FILE" in text
