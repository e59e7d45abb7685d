"""What holds for every test: no ignored signals, no deadlines, one directory per test run."""

import os
import shutil
import signal
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Final

import pytest
from hypothesis import settings

from support.postgres.clusters import RUN_DIRECTORY

pytest.register_assert_rewrite("http_contract")

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


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory of this test run. Workers of pytest-xdist inherit it in the variable."""
    if hasattr(config, "workerinput"):
        return
    directory = Path(mkdtemp(prefix="todo-tests-"))
    directory.chmod(0o711)  # root's PostgreSQL may run as nobody
    os.environ[RUN_DIRECTORY] = str(directory)
    config.add_cleanup(lambda: shutil.rmtree(directory))
