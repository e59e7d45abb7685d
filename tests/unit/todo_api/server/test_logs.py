"""When log events are written, and what a traceback in the log contains."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from subprocess import PIPE, CompletedProcess
from typing import Any, Final

import pytest

# The process ends without flushing its buffers, so only what was already written remains.
PROGRAM: Final = """
import asyncio, os, structlog, sys
from todo_api.server.logs import configure_logs

TEXT = ("text", "of", "a", "user")  # apart, because Python 3.13 shows the source in tracebacks

async def run():
    log = structlog.get_logger()
    for number in range(3):
        log.info("counted", number=number, user="müller")
    try:
        try:
            raise KeyError(" ".join(TEXT))
        except KeyError as error:
            raise ValueError(" ".join(TEXT)) from error
    except ValueError:
        log.exception("failed")
    os._exit(0)

configure_logs("info", sys.argv[1])
asyncio.run(run())
"""


def written(log_format: str, **variables: str) -> str:
    """The output of a process that logs three counts and an exception with a cause."""
    result = run(log_format, PIPE, variables)
    assert result.stderr == b""
    return result.stdout.decode()


def run(log_format: str, stdout: int, variables: Mapping[str, str]) -> CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        stdout=stdout,
        stderr=PIPE,
        check=False,
        timeout=30,
    )


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return [json.loads(line) for line in written("json").splitlines()]


def test_an_event_is_written_before_the_call_returns(events: list[dict[str, Any]]) -> None:
    assert [(event["event"], event.get("number")) for event in events] == [
        ("counted", 0),
        ("counted", 1),
        ("counted", 2),
        ("failed", None),
    ]


def test_a_traceback_has_the_causes_first(events: list[dict[str, Any]]) -> None:
    tracebacks = events[-1]["exception"].split("\n\n")
    assert [traceback.splitlines()[-1] for traceback in tracebacks] == ["KeyError", "ValueError"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_has_no_exception_messages(log_format: str) -> None:
    output = written(log_format)
    assert "Traceback (most recent call last):" in output
    assert "text of a user" not in output


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_events_that_cannot_be_written_are_dropped(log_format: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run(log_format, writer, {})
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_console_lines_escape_what_the_output_cannot_encode() -> None:
    assert "m\\xfcller" in written("console", PYTHONIOENCODING="ascii")


@pytest.mark.parametrize(
    ("variables", "has_colors"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": ""}, False),
    ],
)
def test_console_lines_have_colors_on_a_terminal_or_if_forced(
    variables: dict[str, str], *, has_colors: bool
) -> None:
    assert ("\x1b[" in written("console", **variables)) == has_colors
