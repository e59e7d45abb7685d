"""Schemathesis against the running service: its own schema, every phase, every check.

FUZZ_EXAMPLES=200 tries more than 5,000 cases; FUZZ_SEED chooses other ones.
"""

import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.service import Service, new_sandbox
from todo_adapters.postgres.url import DatabaseUrl

SCHEMATHESIS: Final = str(Path(sys.executable).with_name("st"))
CONFIGURATION: Final = str(Path(__file__).with_name("schemathesis.toml"))
HOOKS: Final = {"SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("schemathesis_hooks.py"))}
EXAMPLES: Final = os.environ.get("FUZZ_EXAMPLES", "25")  # of each operation in each phase
SEED: Final = os.environ.get("FUZZ_SEED", "1")
NOT_TESTED: Final = ("streamChanges",)
UNLIMITED: Final = {"RATE_LIMIT": "off", "RATE_LIMIT_AUTH_FAILURES": "off"}


@pytest.fixture
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("fuzzed")
    return urlsplit(server_url)._replace(path="/fuzzed").geturl()


@pytest.fixture
def service(database_url: str) -> Iterator[Service]:
    with (
        new_sandbox() as sandbox,
        sandbox.serving(
            "serve", DATABASE_URL=database_url, **AUTH_SETTINGS, **UNLIMITED
        ) as service,
    ):
        yield service


def test_no_case_that_schemathesis_makes_up_finds_anything(
    service: Service, tmp_path: Path
) -> None:
    token = as_user("ada")["Authorization"]
    command = [
        *(SCHEMATHESIS, "--config-file", CONFIGURATION, "run", f"{service.url}/openapi.json"),
        *("--header", f"Authorization: {token}", "--no-color", "--checks", "all"),
        *("--max-examples", EXAMPLES, "--seed", SEED, "--continue-on-failure"),
    ]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **HOOKS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    counts = re.search(r"Selected: (\d+)/(\d+)\s+Tested: \1\s", result.stdout)
    assert counts, result.stdout
    assert int(counts[2]) - int(counts[1]) == len(NOT_TESTED)
    assert "internal_error" not in service.stdout
    assert '"status":5' not in service.stdout
