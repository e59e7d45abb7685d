"""Debian's Redis server, which keeps nothing and can be killed, paused and started again."""

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

PATIENCE = 5.0  # seconds for an answer


class RedisServer:
    """A server at one port of this machine, whether it runs or not."""

    def __init__(self, program: str, directory: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", directory),
            *("--save", "", "--appendonly", "no"),
        ]
        self._process: Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers; it remembers nothing."""
        self._process = subprocess.Popen(self._command, stdin=DEVNULL, stdout=DEVNULL)
        assert eventually(self._answers), "redis-server does not answer"

    def kill(self) -> None:
        """End it at once, as a machine does that fails."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it accept what is sent, and do nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def keys(self) -> int:
        """How many keys it has."""
        return int(self._ask(b"DBSIZE").removeprefix(b":"))

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING") == b"+PONG\r\n"
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        """The first line of its answer to a command in its own inline form."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(command + b"\r\n")
            return connection.makefile("rb").readline()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A server that runs, and is gone at the end."""
    program = require("redis-server")
    with TemporaryDirectory(prefix="todo-redis-") as directory:
        server = RedisServer(program, directory)
        server.start()
        try:
            yield server
        finally:
            server.kill()
