"""Ports and addresses of this machine that no other process of tests uses at the same time.

Each process owns a block of them by the lock on a file, so that two workers, or the tests of two
checkouts, never choose the same port between the search for a free one and the server's start.
"""

import fcntl
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Final

# Outgoing connections get their ports from 32768 on, so that none of them can be in the way.
_FIRST: Final = 20000
_SIZE: Final = 200  # ports of a block
_BLOCKS: Final = range((32768 - _FIRST) // _SIZE)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens, and which was not returned lately."""
    return next(filter(_is_free, islice(_ports(), _SIZE)))


def own_address() -> str:
    """A loopback address whose every port is this process's, where there are several addresses."""
    return next(_addresses()) if sys.platform == "linux" else "127.0.0.1"


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


@cache
def _ports() -> Iterator[int]:
    first = _FIRST + _block() * _SIZE
    return cycle(range(first, first + _SIZE))


@cache
def _addresses() -> Iterator[str]:
    return cycle(f"127.{1 + _block()}.0.{number}" for number in range(1, 255))


@cache
def _block() -> int:
    """The first block that no other process owns; it is this process's until that ends."""
    return next(block for block in _BLOCKS if _is_locked(block))


def _is_locked(block: int) -> bool:
    path = Path(tempfile.gettempdir(), f"todo-tests-ports-{os.getuid()}-{block}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True
