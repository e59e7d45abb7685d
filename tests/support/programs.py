"""Programs other than Python that some tests run."""

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Final

import pytest

_TIMEOUT: Final = 20.0  # seconds; npm needs one, and a busy machine several


def require(program: str, version: str = "--version") -> str:
    """The path of a program that runs. Skips the test without it; with REQUIRE_ALL=1, fails it.

    A program runs if it prints its ``version``: pyenv, for one, has a shim on PATH for each Python
    that it knows, and those of versions that are not chosen fail.
    """
    # Debian keeps servers in /usr/sbin, which is on root's PATH only.
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    problem = f"{program} is not installed" if path is None else _problem(path, version)
    if path and not problem:
        return path
    reason = f"{problem}, and this test runs it"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}; REQUIRE_ALL=1 allows no skipping")
    pytest.skip(reason)


def npm_install(project: Path) -> Path:
    """The packages that the project's lock names, installed unless they are."""
    lock, installed = project / "package-lock.json", project / "node_modules"
    stamp = installed / ".package-lock.json"
    npm = require("npm")
    with lock.open() as locked:  # by one process of the tests at a time
        fcntl.flock(locked, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            command = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            subprocess.run(command, cwd=project, stdin=DEVNULL, check=True)
    return installed


@cache
def _problem(path: str, version: str) -> str:
    """Why the program does not run; empty if it does."""
    try:
        result = subprocess.run(
            (path, version),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        return f"{path} does not start ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"{path} {version} does not end"
    if result.returncode == 0:
        return ""
    output = " ".join(result.stdout.split())
    return f"{path} {version} fails with exit code {result.returncode} ({output[:200]})"
