"""Signals to the processes of a service: no request is lost, whichever process gets them."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from support.ports import free_port
from support.service import PATIENCE, Sandbox, Service, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing listens too early there")

PROGRAM: Final = (sys.executable, "-m", "support.small_service")
TESTS: Final = str(Path(__file__).parents[2])
REPEATED: Final = 50  # signals; Linux delivers some of them together

Send = Callable[[Service, signal.Signals], None]


@contextmanager
def running(sandbox: Sandbox, *command: str, workers: int = 1) -> Iterator[Service]:
    with sandbox.start(*command, PYTHONPATH=TESTS, WORKERS=str(workers)) as service:
        service.wait_until_it_answers()
        yield service


@contextmanager
def incomplete_request(service: Service) -> Iterator[socket.socket]:
    """A connection on which the application waits for the byte ``x``."""
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as connection:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        yield connection


def finish(request: socket.socket) -> bytes:
    """Send the missing byte; return the response's status."""
    request.sendall(b"x")
    return request.recv(1000).split()[1]


def worker(service: Service) -> int:
    """The process id of the worker that answers."""
    with service.client() as client:
        return int(client.get("/").text.split()[0])


class TestStop:
    @pytest.mark.parametrize("send", [Service.send, Service.send_to_group])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_by_many_signals_finishes_requests_and_ends_streams(
        self, sandbox: Sandbox, workers: int, number: signal.Signals, send: Send
    ) -> None:
        with (
            running(sandbox, *PROGRAM, workers=workers) as service,
            service.client() as client,
            client.stream("GET", "/stream") as stream,
            incomplete_request(service) as request,
        ):
            lines = stream.iter_lines()
            next(lines)
            for _ in range(REPEATED):
                send(service, number)
            assert list(lines) == ["bye"]
            assert finish(request) == b"201"
            assert service.exit_code() == 0

    def test_during_a_renewal_does_not_wait_for_it(self, sandbox: Sandbox) -> None:
        with running(sandbox, *PROGRAM, workers=2) as service:
            service.send(signal.SIGHUP)
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0  # a renewal would take 20 s

    def test_by_the_end_of_the_terminal_can_be_chosen(self, sandbox: Sandbox) -> None:
        with (
            running(sandbox, *PROGRAM, "stop-on-sighup") as service,
            incomplete_request(service) as request,
        ):
            service.send_to_group(signal.SIGHUP)
            assert eventually(lambda: not service.listens())
            assert finish(request) == b"201"
            assert service.exit_code() == 0

    def test_by_the_end_of_the_terminal_is_left_out_under_nohup(self, sandbox: Sandbox) -> None:
        with running(sandbox, "nohup", *PROGRAM, "stop-on-sighup") as service:
            service.send_to_group(signal.SIGHUP)
            assert worker(service) == worker(service)
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0


class TestRenewal:
    @pytest.mark.parametrize(("workers", "send"), [(1, Service.send), (2, Service.send_to_group)])
    def test_by_sighup_finishes_requests(self, sandbox: Sandbox, workers: int, send: Send) -> None:
        with (
            running(sandbox, *PROGRAM, "renew-at-once", workers=workers) as service,
            incomplete_request(service) as request,
        ):
            before = service.workers()
            send(service, signal.SIGHUP)
            assert eventually(lambda: before != service.workers())
            assert finish(request) == b"201"
            assert eventually(lambda: not before & service.workers())
            service.wait_until_it_answers()
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0

    def test_is_not_repeated_for_ever_if_all_workers_fail(self, sandbox: Sandbox) -> None:
        variables = {"PYTHONPATH": TESTS, "WORKERS": "2", "PORT": str(free_port())}
        assert sandbox.run(*PROGRAM, "fail", **variables).returncode == 1

    def test_replaces_a_worker_that_was_killed(self, sandbox: Sandbox) -> None:
        with running(sandbox, *PROGRAM, workers=2) as service:
            killed = worker(service)
            os.kill(killed, signal.SIGKILL)
            assert eventually(lambda: len(service.workers() - {killed}) == 2)
            service.wait_until_it_answers()
            service.send(signal.SIGTERM)
            assert service.exit_code() == 0
