"""How far a measurement is, on one line of standard error."""

import sys
import time


class Progress:
    """A line that is written over with every step; lines of their own where that is no terminal."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def step(self, what: str) -> None:
        """Say what begins now."""
        width = 24
        filled = width * self._done // self._steps
        seconds = time.monotonic() - self._start
        bar = "#" * filled + "." * (width - filled)
        line = f"[{bar}] {self._done}/{self._steps} {seconds:4.0f} s  {what}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
        elif self._done % max(1, self._steps // 10) == 0:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        self._done += 1

    def end(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
