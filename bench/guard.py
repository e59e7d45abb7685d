"""What must not get dearer unnoticed, as counts: instructions per request and pages per statement.

Counts repeat where timings do not, so they can be compared with what was committed.
"""

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import DEVNULL, PIPE, run
from tempfile import TemporaryDirectory
from typing import Final

from bench.growth import costs
from bench.load import OPERATIONS, requests_of, require, write_requests
from bench.stage import Database, database

BASELINE: Final = Path(__file__).with_name("baseline.json")
TOLERANCE: Final = 0.03
GUARDED_OWNERS: Final = 40
GUARDED_TASKS: Final = 20_000

FEW: Final = 60  # requests, after which what is made once is made, and code has been specialised
MANY: Final = 180
_COUNTED: Final = re.compile(r"==(\d+)== I\s+refs:\s+([\d,]+)")
_MEASURED: Final = re.compile(r"^(\d+) (\w+) (\d+)$", re.MULTILINE)


async def instructions(place: Database) -> dict[str, dict[str, int]]:
    """Instructions per request of the service and of the floor, by operation.

    Without what starting takes: the difference of many requests and few. Raises MissingProgram.
    """
    users = await place.users("user", GUARDED_OWNERS)
    found = {}
    # Each has owners of its own: a list is dearer or cheaper after what the other has added.
    for name, asking in (("floor", users[::2]), ("service", users[1::2])):
        with TemporaryDirectory(prefix="todo-bench-") as directory:
            asked = {operation: requests_of(operation, asking) for operation in OPERATIONS}
            write_requests(asked, Path(directory))
            found[name] = await asyncio.to_thread(_count, name, directory, place.variables())
    return found


def _count(name: str, directory: str, variables: Mapping[str, str]) -> dict[str, int]:
    cachegrind = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    driver = (sys.executable, "-m", "bench.in_process", name, directory, str(FEW), str(MANY))
    result = run(
        (require("valgrind"), *cachegrind, *driver),
        env=dict(variables) | {"PYTHONHASHSEED": "0"},
        stdout=DEVNULL,
        stderr=PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    counted = {pid: int(refs.replace(",", "")) for pid, refs in _COUNTED.findall(result.stderr)}
    totals = {
        (operation, int(count)): counted[pid]
        for pid, operation, count in _MEASURED.findall(result.stderr)
    }
    return {
        operation: (totals[operation, MANY] - totals[operation, FEW]) // (MANY - FEW)
        for operation in OPERATIONS
    }


async def check() -> list[str]:
    """What has become dearer than the baseline allows, a sentence each."""
    before, now = json.loads(BASELINE.read_text()), await _counts()
    complaints = []
    for operation, ratio in now["instructions_to_floor"].items():
        allowed = before["instructions_to_floor"][operation] * (1 + TOLERANCE)
        if ratio > allowed:
            complaints.append(
                f"{operation} takes {ratio:.2f} times the floor's instructions, more than"
                f" {allowed:.2f}: make it cheaper, or accept it: `python -m bench guard --accept`"
            )
    for statement, pages in now["pages"].items():
        allowed = before["pages"].get(statement, pages) * (1 + TOLERANCE) + 2
        if pages > allowed:
            complaints.append(f"{statement} touches {pages} pages, more than {allowed:.0f}")
    return complaints


async def update() -> None:
    """Make what is counted now the baseline."""
    BASELINE.write_text(json.dumps(await _counts(), indent=1) + "\n")


async def _counts() -> dict[str, Mapping[str, float]]:
    async with database(GUARDED_OWNERS) as place:
        await place.fill("many", 1, GUARDED_TASKS)
        owner = (await place.fetch("SELECT md5('many1')"))[0]["md5"]
        pages = {name: cost.pages for name, cost in (await costs(place.url, owner)).items()}
        counted = await instructions(place)
    ratios = {
        operation: round(counted["service"][operation] / counted["floor"][operation], 3)
        for operation in OPERATIONS
    }
    return {"instructions_to_floor": ratios, "pages": pages}
