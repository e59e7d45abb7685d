"""Granian's processes: each signal is handled once (docs/decisions/0005-server.md).

It replaces parts of Granian 2.8 that have no documented names.
"""

import signal
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

from granian import _signals
from granian._granian import WorkerSignal
from granian.server.mp import MPServer

SHUTDOWN_TIMEOUT: Final = 8  # seconds for accepted requests to finish after SIGTERM
POLL_INTERVAL: Final = 0.05  # seconds


class _Event:
    """An event whose ``set`` can run in a signal handler. ``wait`` can return once too often.

    threading.Event holds a lock in ``set`` and ``wait``: a signal handler that interrupts one of
    them and calls ``set`` waits for this lock for ever.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()  # its ``put`` is reentrant

    def set(self) -> None:
        self._queue.put(None)

    def wait(self, timeout: float | None = None) -> None:
        with suppress(Empty):
            self._queue.get(timeout=timeout)

    def clear(self) -> None:
        """Do nothing: ``wait`` takes back one ``set``."""


class _Times(dict[int, float]):
    """When each worker was replaced. Granian stops if one fails soon after that.

    Granian clears the times before it replaces another worker. Two workers that fail in turn would
    be replaced for ever.
    """

    def clear(self) -> None:
        """Keep the times."""


# Granian's own type hints are incomplete.
_Worker = Any
_Target = Any


class Server(MPServer):
    """Granian whose workers get only SIGTERM, and which can stop during a renewal."""

    def __init__(
        self,
        target: str,
        *,
        when_spawned: Callable[[], None],
        **options: Any,  # noqa: ANN401 - Granian's options
    ) -> None:
        super().__init__(target, **options)
        self._when_spawned = when_spawned
        self.main_loop_interrupt: Any = _Event()
        self.respawned_wrks = _Times()

    def _spawn_workers(self, spawn_target: _Target, target_loader: _Target) -> None:
        self.wrks += [
            self._start_worker(index, spawn_target, target_loader) for index in range(self.workers)
        ]
        self._when_spawned()

    def _respawn_workers(
        self, workers: list[int], spawn_target: _Target, target_loader: _Target, delay: float = 0
    ) -> None:
        """Replace workers one by one. Stops at SIGTERM, unlike Granian's own method."""
        for index in workers:
            old: _Worker = self.wrks[index]
            self.respawned_wrks[index] = time.monotonic()
            self.wrks[index] = self._start_worker(index, spawn_target, target_loader)
            self._wait(delay, old)
            old.terminate()
            self._wait(SHUTDOWN_TIMEOUT, old)
            if self.interrupt_signal:
                self.wrks.append(old)  # it is stopped with the others
                break
            old.kill()
        self.main_loop_interrupt.set()  # _wait has consumed events that are not handled yet

    def _start_worker(self, index: int, spawn_target: _Target, target_loader: _Target) -> _Worker:
        worker: _Worker = self._spawn_worker(index, spawn_target, target_loader)
        with blocked_signals():
            worker.start()
        return worker

    def _wait(self, seconds: float, worker: _Worker) -> None:
        """Wait until the time is over, the worker has ended or the server has to stop."""
        deadline = time.monotonic() + seconds
        while worker.is_alive() and not self.interrupt_signal and time.monotonic() < deadline:
            self.main_loop_interrupt.wait(POLL_INTERVAL)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Start processes with these signals blocked.

    A worker unblocks SIGTERM when it can handle it. SIGINT and SIGHUP remain blocked: the main
    process turns both into SIGTERM, and a terminal sends them to the workers too.
    """
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle_signals_of_worker() -> None:
    """Prepare a new worker. SIGTERM ends it at once until Granian handles SIGTERM.

    Until then the worker has no connections.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _signals.set_loop_signals = _handle_sigterm_once


def _handle_sigterm_once(loop: AbstractEventLoop) -> WorkerSignal:
    """Stop the worker at the first SIGTERM.

    Granian's own function stops it at each SIGTERM. ``WorkerSignal.set`` blocks the process for
    ever when it is called for the third time.
    """
    stop = WorkerSignal()
    calls = iter([stop.set])

    def stop_once() -> None:
        for call in calls:
            call()

    loop.add_signal_handler(signal.SIGTERM, stop_once)
    return stop
