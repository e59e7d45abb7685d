"""The programs that tests run: which count as present, and what they inherit."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from support.programs import require

TESTS: Final = Path(__file__).parents[1]
PYENV_SHIM: Final = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"
# Imports tests/conftest.py, and has a child print which of the signals it ignores.
IGNORED: Final = """
import conftest, subprocess, sys
names = "SIGINT", "SIGQUIT", "SIGHUP"
child = f"from signal import *; print([n for n in {names} if getsignal(Signals[n]) is SIG_IGN])"
subprocess.run([sys.executable, "-c", child], check=True)
"""


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A python3.12 first on PATH that fails as pyenv's does for a version that is not chosen."""
    shim = tmp_path / "python3.12"
    shim.write_text(PYENV_SHIM)
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("REQUIRE_ALL", raising=False)
    return shim


def test_a_test_is_skipped_with_the_reason_why_its_program_does_not_run(shim: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"{shim} --version fails .*not found") as skip:
        require("python3.12")
    assert "and this test runs it" in str(skip.value)


def test_a_test_is_skipped_when_its_program_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such-program is not installed"):
        require("no-such-program")


@pytest.mark.usefixtures("shim")
def test_a_test_fails_instead_when_nothing_may_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_ALL=1 allows no skipping"):
        require("python3.12")


def test_the_path_of_a_program_that_runs_is_returned(shim: Path) -> None:
    shim.write_text("#!/bin/sh\necho Python 3.12.1\n")
    assert require("python3.12") == str(shim)


def test_programs_ignore_no_signal_although_the_tests_were_started_in_the_background() -> None:
    in_background = ("sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh")
    command = (*in_background, sys.executable, "-c", IGNORED)
    assert subprocess.check_output(command, cwd=TESTS, text=True) == "[]\n"
