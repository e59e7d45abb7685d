"""Debian's Redis server without persistence, which can be killed, paused and restarted."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory

from support.ports import free_port
from support.programs import require
from support.service import eventually

PATIENCE = 5.0  # seconds to wait for a response


class RedisServer:
    """A server at one port of this machine, running or stopped."""

    def __init__(self, program: str, directory: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory),
            *("--save", "", "--appendonly", "no"),
        ]
        self._process: Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without data. Returns once it answers."""
        self._process = subprocess.Popen(self._command, stdin=DEVNULL, stdout=DEVNULL)
        assert eventually(self._answers), "redis-server does not answer"

    def kill(self) -> None:
        """Kill it, as a power failure does."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Suspend it: connections are accepted, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def keys(self) -> int:
        """The number of keys."""
        return int(self._ask(b"DBSIZE").removeprefix(b":"))

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING") == b"+PONG\r\n"
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        """The first line of the response to an inline command."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(command + b"\r\n")
            return connection.makefile("rb").readline()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A server that runs until the end of the block."""
    program = require("redis-server")
    with TemporaryDirectory(prefix="todo-redis-") as directory:
        server = RedisServer(program, directory)
        server.start()
        try:
            yield server
        finally:
            server.kill()
