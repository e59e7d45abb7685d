"""Connections that are closed because a request does not arrive in time."""

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import pytest

from todo_api.server.stalled_requests import StalledRequests

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux")

TIMEOUT: Final = 30.0
LATER: Final = TIMEOUT + 1


class Connection:
    """A connection between a client and a server in this process."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.client = socket.create_connection(("127.0.0.1", self.port))
        self.server, _ = self.listener.accept()

    def close(self) -> None:
        for end in (self.client, self.server, self.listener):
            end.close()

    def request(self, data: bytes) -> None:
        self.client.sendall(data)
        assert self.server.recv(1000) == data

    def respond(self) -> None:
        self.server.sendall(b"response")
        assert self.client.recv(1000) == b"response"

    def is_open(self) -> bool:
        """Whether the client has not been disconnected."""
        self.client.setblocking(False)
        try:
            return self.client.recv(1) != b""
        except BlockingIOError:
            return True


@pytest.fixture
def connection() -> Iterator[Connection]:
    with closing(Connection()) as connection:
        yield connection


@pytest.fixture
def stalled(connection: Connection) -> StalledRequests:
    return StalledRequests(connection.port, TIMEOUT)


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
def test_without_a_first_request_the_connection_is_closed_after_the_timeout(
    connection: Connection, stalled: StalledRequests, sent: bytes
) -> None:
    if sent:
        connection.request(sent)
    stalled.close(0)
    stalled.close(TIMEOUT)
    assert connection.is_open()
    stalled.close(LATER)
    assert not connection.is_open()


def test_a_request_that_arrives_byte_by_byte_is_not_waited_for_any_longer(
    connection: Connection, stalled: StalledRequests
) -> None:
    connection.respond()
    for second in range(round(LATER) + 3):
        connection.request(b"x")
        stalled.close(second)
        if not connection.is_open():
            break
    assert second > TIMEOUT


def test_an_idle_connection_remains_open(connection: Connection, stalled: StalledRequests) -> None:
    connection.request(b"request")
    stalled.close(0)
    connection.respond()
    stalled.close(1)
    stalled.close(LATER)
    assert connection.is_open()


def test_the_time_begins_again_with_each_response(
    connection: Connection, stalled: StalledRequests
) -> None:
    connection.request(b"request")
    stalled.close(0)
    connection.respond()
    connection.request(b"request")
    stalled.close(TIMEOUT)
    stalled.close(LATER)
    assert connection.is_open()


def test_listeners_and_connections_to_other_ports_remain_open(connection: Connection) -> None:
    client_port = connection.client.getsockname()[1]
    stalled = StalledRequests(client_port, TIMEOUT)
    with closing(Connection()) as other:
        StalledRequests(other.port, TIMEOUT).close(0)
        connection.server.sendall(b"x")
        for now in (0, LATER):
            StalledRequests(other.port, TIMEOUT).close(now)
        assert connection.is_open()
    del stalled
