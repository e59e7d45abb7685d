"""Serving an app with Granian until a signal ends it; docs/decisions says why Granian."""

import ctypes
import errno
import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

from granian.constants import HTTPModes, Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer
from prometheus_client import start_http_server
from starlette.types import ASGIApp

from todo_api.metrics import MULTIPROCESS, workers_registry
from todo_api.server.logs import library_logs
from todo_api.server.settings import ConfigurationError, Settings

SHUTDOWN_TIMEOUT: Final = 8  # seconds that accepted requests have to finish after SIGTERM
STARTING: Final = 10.0  # seconds that a renewed worker has to start before the old one is stopped
GC_THRESHOLD: Final = 10_000  # objects that a worker has beyond its last look for cycles among them
SOCKET_THREADS: Final = 2  # of each worker: while one waits for Python, the other reads requests
HEADER_TIMEOUT: Final = 20_000  # milliseconds for a client to send its request's head
CONNECTIONS: Final = 8192  # of each worker; those that say nothing must not keep others out
HEADER_BUFFER: Final = 64 * 1024


def serve(
    settings: Settings, load: Callable[[], ASGIApp], *, ends_with_terminal: bool = False
) -> None:
    """Serve what ``load`` returns in each worker; returns after SIGINT or SIGTERM.

    SIGHUP renews the workers one by one; or it ends everything, for a program that should not
    outlive its terminal.

    ``load`` runs in the workers, so it must be picklable. Raises ConfigurationError when the
    address cannot be had.
    """
    check_port_free(settings.host, settings.port)
    with _shared_metrics(settings):
        server = _server(settings)
        if ends_with_terminal:
            server.on_startup(
                partial(signal.signal, signal.SIGHUP, server.signal_handler_interrupt)
            )
        server.serve(target_loader=_AppLoader(load), wrap_loader=False)


def _server(settings: Settings) -> MPServer:
    return MPServer(
        "todo_api.main:app",
        address=_address(settings.host)[1],
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        http=HTTPModes.http1,  # the bounds on slow and large heads are those of HTTP/1
        websockets=False,
        http1_settings=HTTP1Settings(
            header_read_timeout=HEADER_TIMEOUT, max_buffer_size=HEADER_BUFFER
        ),
        backpressure=CONNECTIONS,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=SOCKET_THREADS,
        log_level=LogLevels.warning,
        log_dictconfig=library_logs(settings.log_format),
        workers_kill_timeout=SHUTDOWN_TIMEOUT,
        respawn_failed_workers=settings.workers > 1,
        respawn_interval=STARTING,
    )


@contextmanager
def _shared_metrics(settings: Settings) -> Iterator[None]:
    """Where there are several processes to ask, let them count in files that one can add up.

    prometheus-client decides that when it is imported, so the workers start afresh.
    """
    if settings.workers == 1 and not isinstance(settings.metrics, int):
        yield
        return
    with TemporaryDirectory(prefix="todo-metrics-") as directory:
        os.environ[MULTIPROCESS] = directory
        multiprocessing.set_start_method("spawn")
        if isinstance(settings.metrics, int):
            check_port_free(settings.host, settings.metrics)
            start_http_server(settings.metrics, settings.host, workers_registry())
        yield


class _AppLoader:
    """Loads the app in a worker that dies with its parent, so that a kill -9 leaves nothing."""

    def __init__(self, load: Callable[[], ASGIApp]) -> None:
        self._load = load
        self._parent = os.getpid()

    def __call__(self) -> ASGIApp:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != self._parent:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)
        app = self._load()
        gc.collect()
        gc.freeze()  # what is there now stays: to look through it again and again takes long
        gc.set_threshold(GC_THRESHOLD)
        return app


def check_port_free(host: str, port: int) -> None:
    """Raise ConfigurationError if nothing can listen at the address."""
    family, address = _address(host)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as failure:
            raise ConfigurationError(_cannot_listen(failure, host, port)) from None


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    """The address that a host's name stands for. Raises ConfigurationError."""
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ConfigurationError(
            f"HOST={host} has no address: use 127.0.0.1, or 0.0.0.0 for every one of this machine's"
        ) from None
    return family, str(address[0])


def _cannot_listen(failure: OSError, host: str, port: int) -> str:
    if failure.errno == errno.EADDRINUSE:
        return f"port {port} is taken: stop what uses it, or choose another with PORT={port + 1}"
    if failure.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one above 1023 with PORT"
    return f"HOST={host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for every one"
