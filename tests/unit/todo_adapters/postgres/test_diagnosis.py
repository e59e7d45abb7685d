"""How errors of real connections are explained to an operator."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from support.postgres.pgbouncer import Certificate
from todo_adapters.postgres.diagnosis import inspect_database
from todo_adapters.postgres.url import parse_database_url
from todo_domain.errors import DatabaseUnavailable

NO_TLS: Final = b"N"  # PostgreSQL's response to a request for TLS
STARTS_TLS: Final = b"S"


@asynccontextmanager
async def server(response: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that responds to the first message, and then starts TLS if it can."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(8)
            writer.write(response)
            await writer.drain()
            if tls:
                await writer.start_tls(tls)
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1") as listening:
        yield listening.sockets[0].getsockname()[1]


async def explained(port: int, options: str, host: str = "127.0.0.1") -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        await inspect_database(
            parse_database_url(f"postgresql://ada:hunter2@{host}:{port}/todo?{options}")
        )
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.issued(tmp_path / "tls", "127.0.0.1")


async def test_an_unknown_ca_is_explained_with_openssls_reason(certificate: Certificate) -> None:
    async with server(STARTS_TLS, certificate.context()) as port:
        text = await explained(port, "sslmode=verify-full")
    assert "(unable to get local issuer certificate): write sslrootcert=FILE" in text


async def test_another_name_is_explained_with_openssls_reason(certificate: Certificate) -> None:
    async with server(STARTS_TLS, certificate.context()) as port:
        text = await explained(
            port, f"sslmode=verify-full&sslrootcert={certificate.ca}", host="localhost"
        )
    assert "mismatch" in text.lower()
    assert "write the host as it is in the certificate" in text


@pytest.mark.parametrize("response", [NO_TLS, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_a_server_without_tls_is_explained(response: bytes) -> None:
    async with server(response) as port:
        text = await explained(port, "sslmode=require")
    assert "the server has no TLS: write sslmode=disable" in text


async def test_a_server_that_is_not_postgresql_is_explained() -> None:
    async with server(b"220 mail.example ESMTP\r\n") as port:
        text = await explained(port, "sslmode=disable")
    assert "check that a PostgreSQL server listens at the port" in text
