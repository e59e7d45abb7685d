"""What holds for every test: signals are not ignored, and Hypothesis has no deadline."""

import os
import signal
from types import FrameType
from typing import Final

from hypothesis import settings

# CI repeats the same examples. A busy machine may be slow: no test here measures time.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Handle a signal. Unlike SIG_IGN, a handler is not inherited by the programs of the tests."""


# `make test &` starts with SIGINT and SIGQUIT ignored, nohup with SIGHUP. A program that inherits
# this never ends by Ctrl-C or by the end of its terminal, for which some tests wait.
_HANDLERS: Final = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: _do_nothing,
    signal.SIGHUP: _do_nothing,
}
for _number, _handler in _HANDLERS.items():
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
