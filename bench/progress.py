"""A progress bar on standard error."""

import sys
import time


class Progress:
    """One line that is overwritten on a terminal, and some separate lines otherwise."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()

    def step(self, name: str) -> None:
        """Show the step that starts."""
        width = 24
        filled = width * self._done // self._steps
        seconds = time.monotonic() - self._start
        bar = "#" * filled + "." * (width - filled)
        line = f"[{bar}] {self._done}/{self._steps} {seconds:4.0f} s  {name}"
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
        elif self._done % max(1, self._steps // 10) == 0:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        self._done += 1

    def end(self) -> None:
        """Clear the line."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
