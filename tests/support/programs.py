"""What some tests need that is not Python: they run where it is there."""

import os
import shutil

import pytest


def require(program: str) -> str:
    """The path of the program. Without it the test is skipped; with REQUIRE_ALL=1 it fails."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"{program} is not installed, and this test runs it"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}; REQUIRE_ALL=1 allows no skipping")
    pytest.skip(reason)
