"""Serve an app with Granian until a signal stops it (docs/decisions/0005-server.md)."""

import ctypes
import errno
import gc
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.resource_tracker import ensure_running as start_resource_tracker
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Final

import structlog
from granian.constants import HTTPModes, Interfaces, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from prometheus_client import start_http_server
from starlette.types import ASGIApp

from todo_api.metrics import MULTIPROCESS_DIR, all_workers_registry
from todo_api.server.logs import library_logs
from todo_api.server.processes import (
    POLL_INTERVAL,
    SHUTDOWN_TIMEOUT,
    Server,
    blocked_signals,
    handle_signals_of_worker,
)
from todo_api.server.settings import ConfigurationError, Settings
from todo_api.server.stalled_requests import close_stalled_requests

RESPAWN_INTERVAL: Final = 10.0  # seconds for a new worker to start before the old one stops
GC_THRESHOLD: Final = 10_000  # generation 0; the default of 700 collects too often here
RUNTIME_THREADS: Final = 2  # per worker; while one waits for the GIL, the other reads requests
REQUEST_TIMEOUT: Final = 30.0  # seconds from the first byte to the response; a body has 20
HEADER_BUFFER: Final = 64 * 1024  # bytes
MAX_CONNECTIONS: Final = 8192  # per worker; many, so that idle connections do not block others
CONNECT_TIMEOUT: Final = 2.0  # seconds

_log = structlog.get_logger()


class PortInUse(ConfigurationError):
    """Another program listens on the port."""


def serve(
    settings: Settings,
    load_app: Callable[[], ASGIApp],
    when_ready: Callable[[], None] = lambda: None,
    *,
    stop_on_sighup: bool = False,
) -> None:
    """Serve the app until SIGINT or SIGTERM.

    SIGHUP replaces the workers one by one. With ``stop_on_sighup`` it stops the server, so that the
    server does not outlive its terminal, unless SIGHUP is ignored, as ``nohup`` does.

    Each worker calls ``load_app``, so it must be picklable. A thread calls ``when_ready`` when the
    server accepts connections. Raises ConfigurationError if the server cannot listen.
    """
    check_port_free(settings.host, settings.port)
    ignores_sighup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with _worker_metrics(settings):
        watch = Thread(target=_call_when_listening, args=(settings, when_ready), daemon=True)
        server = _server(settings, watch.start)
        if stop_on_sighup:
            on_sighup = signal.SIG_IGN if ignores_sighup else server.signal_handler_interrupt
            server.on_startup(partial(signal.signal, signal.SIGHUP, on_sighup))
        server.on_shutdown(_log_stop)
        server.serve(target_loader=_AppLoader(settings.port, load_app), wrap_loader=False)


def _log_stop() -> None:
    _log.info("service.stopped")


def _call_when_listening(settings: Settings, callback: Callable[[], None]) -> None:
    address = reachable_host(settings.host), settings.port
    while True:
        with suppress(OSError), socket.create_connection(address, timeout=CONNECT_TIMEOUT):
            break
        time.sleep(POLL_INTERVAL)
    callback()


def reachable_host(host: str) -> str:
    """The name under which this machine reaches a server that listens on the host."""
    return "localhost" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound


def _server(settings: Settings, when_spawned: Callable[[], None]) -> Server:
    return Server(
        "todo_api.main:app",
        when_spawned=when_spawned,  # not before: a forked worker must not inherit held locks
        address=_address(settings.host)[1],
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        http=HTTPModes.http1,  # the limits on slow and large request heads exist for HTTP/1 only
        websockets=False,
        http1_settings=HTTP1Settings(
            header_read_timeout=settings.keep_alive_timeout * 1000,  # counts idle time too
            max_buffer_size=HEADER_BUFFER,
        ),
        backpressure=MAX_CONNECTIONS,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=RUNTIME_THREADS,
        log_level=LogLevels.warning,
        log_dictconfig=library_logs(settings.log_format),
        workers_kill_timeout=SHUTDOWN_TIMEOUT,
        respawn_failed_workers=settings.workers > 1,
        respawn_interval=RESPAWN_INTERVAL,
    )


@contextmanager
def _worker_metrics(settings: Settings) -> Iterator[None]:
    """Let several workers write metrics to files, so that one process can report all.

    prometheus-client selects this mode when it is imported, so workers are spawned, not forked.
    """
    if settings.workers == 1 and not isinstance(settings.metrics, int):
        yield
        return
    with _temporary_directory() as directory:
        os.environ[MULTIPROCESS_DIR] = directory
        multiprocessing.set_start_method("spawn")
        with blocked_signals():
            start_resource_tracker()  # SIGHUP would end it; it ignores SIGINT and SIGTERM
        if isinstance(settings.metrics, int):
            check_port_free(settings.host, settings.metrics)
            start_http_server(settings.metrics, settings.host, all_workers_registry())
        yield


def _temporary_directory() -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="todo-metrics-")
    except OSError:
        raise ConfigurationError(
            "there is no writable directory for temporary files, which WORKERS and a METRICS port "
            "need: set TMPDIR to a writable directory, or use WORKERS=1 and METRICS=on"
        ) from None


class _AppLoader:
    """Loads the app in a worker.

    On Linux the worker is killed when the main process dies, so that kill -9 leaves no workers.
    """

    def __init__(self, port: int, load_app: Callable[[], ASGIApp]) -> None:
        self._port = port
        self._load_app = load_app
        self._main_pid = os.getpid()

    def __call__(self) -> ASGIApp:
        handle_signals_of_worker()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != self._main_pid:  # the main process died before prctl
            os.kill(os.getpid(), signal.SIGKILL)
        close_stalled_requests(self._port, REQUEST_TIMEOUT)
        app = self._load_app()
        gc.collect()
        gc.freeze()  # the app lives as long as the worker: garbage collections need not scan it
        gc.set_threshold(GC_THRESHOLD)
        return app


def check_port_free(host: str, port: int) -> None:
    """Raise ConfigurationError if the server cannot listen on the port."""
    family, address = _address(host)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            kind = PortInUse if error.errno == errno.EADDRINUSE else ConfigurationError
            raise kind(_explain_bind_error(error, host, port)) from None


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    """Resolve the host to an address. Raises ConfigurationError."""
    try:
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise ConfigurationError(
            f"HOST={host} cannot be resolved: use 127.0.0.1, or 0.0.0.0 for all addresses of this "
            "machine"
        ) from None
    return family, str(address[0])


def _explain_bind_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use: stop the program that uses it, or choose another port, such "
            f"as PORT={port + 1}"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs root privileges: set PORT to a port above 1023"
    return (
        f"HOST={host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all of its "
        "addresses"
    )
