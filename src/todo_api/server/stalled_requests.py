"""Closes the connections of clients that do not complete a request in time. Only on Linux.

Granian has one time-out for the request head and for idle connections (hyper's
``header_read_timeout``). Idle connections have to outlive those of a balancer, for minutes; a
client that sends its request byte by byte must not hold a connection as long.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISSOCK
from threading import Thread
from typing import Final

INTERVAL: Final = 5.0  # seconds between two looks at the connections

# Of struct tcp_info: state, milliseconds since data was sent and received, data segments sent.
_TCP_INFO: Final = struct.Struct("=B43xI4xI100xI")
_ESTABLISHED: Final = 1
_DESCRIPTORS: Final = Path("/proc/self/fd")


class StalledRequests:
    """The connections to a local port that have sent nothing since they last received data.

    The first bytes of a response end this state, so streams are not closed.
    """

    def __init__(self, port: int, timeout: float) -> None:
        self._port = port
        self._timeout = timeout
        self._since: dict[tuple[int, int], float] = {}

    def close(self, now: float) -> None:
        """Close those that have been found for longer than the time-out."""
        since = {}
        for connection in _connections(self._port):
            if request := _awaited_request(connection):
                since[request] = self._since.get(request, now)
                if now - since[request] > self._timeout:
                    connection.shutdown(socket.SHUT_RDWR)
        self._since = since

    def close_repeatedly(self) -> None:
        while True:
            time.sleep(INTERVAL)
            self.close(time.monotonic())


def close_stalled_requests(port: int, timeout: float) -> None:
    """Start a thread that closes the connections of this process."""
    if _DESCRIPTORS.is_dir():
        stalled = StalledRequests(port, timeout)
        Thread(target=stalled.close_repeatedly, daemon=True).start()


def _connections(port: int) -> Iterator[socket.socket]:
    """Duplicates of the process's connections that have this local port."""
    for path in _DESCRIPTORS.iterdir():
        descriptor = int(path.name)
        with suppress(OSError):  # the descriptor is closed by now
            if not S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
                name = duplicate.getsockname()
                if isinstance(name, tuple) and name[1:2] == (port,):
                    yield duplicate


def _awaited_request(connection: socket.socket) -> tuple[int, int] | None:
    """Identifies the request that the connection waits for; None if the connection is idle.

    It is idle if it has sent data after it last received some, or within the same 4 ms, which is
    Linux's resolution.
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    if len(info) < _TCP_INFO.size:  # Linux before 4.6, and gVisor
        return None
    state, since_sent, since_received, segments_sent = _TCP_INFO.unpack(info)
    is_idle = segments_sent > 0 and since_sent <= since_received
    if state != _ESTABLISHED or is_idle:
        return None
    return os.fstat(connection.fileno()).st_ino, segments_sent
