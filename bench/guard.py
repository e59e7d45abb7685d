"""Compares instructions per request and pages per statement with the stored counts.

Counts repeat within 0.1 %, unlike times, so that a small increase is noticed.
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

from bench.environment import Database, database
from bench.growth import costs
from bench.load import OPERATIONS, requests_of, require, write_requests

STORED_COUNTS: Final = Path(__file__).with_name("guard.json")
TOLERANCE: Final = 0.03
GUARDED_OWNERS: Final = 40
GUARDED_TASKS: Final = 20_000

FEW: Final = 60  # requests, after which caches are filled and bytecode is specialised
MANY: Final = 180
_COUNTED: Final = re.compile(r"==(\d+)== I\s+refs:\s+([\d,]+)")
_MEASURED: Final = re.compile(r"^(\d+) (\w+) (\d+)$", re.MULTILINE)


async def instructions(db: Database) -> dict[str, dict[str, int]]:
    """Instructions per request of the service and of the baseline, by operation.

    The difference between many and few requests, so that start-up is not included. Raises
    MissingProgram.
    """
    users = await db.users("user", GUARDED_OWNERS)
    counts = {}
    # Different owners per app: the tasks that one app adds would lengthen the lists of the other.
    for name, owners in (("baseline", users[::2]), ("service", users[1::2])):
        with TemporaryDirectory(prefix="todo-bench-") as directory:
            requests = {operation: requests_of(operation, owners) for operation in OPERATIONS}
            write_requests(requests, Path(directory))
            counts[name] = await asyncio.to_thread(_count, name, directory, db.variables())
    return counts


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
    """A sentence for each count that has increased by more than TOLERANCE."""
    before, now = json.loads(STORED_COUNTS.read_text()), await _counts()
    increases = []
    for operation, ratio in now["instructions_to_baseline"].items():
        allowed = before["instructions_to_baseline"][operation] * (1 + TOLERANCE)
        if ratio > allowed:
            increases.append(
                f"{operation} takes {ratio:.2f} times the baseline's instructions, more than"
                f" {allowed:.2f}: reduce them, or store the counts with"
                " `python -m bench guard --accept`"
            )
    for statement, pages in now["pages"].items():
        allowed = before["pages"].get(statement, pages) * (1 + TOLERANCE) + 2
        if pages > allowed:
            increases.append(f"{statement} reads {pages} pages, more than {allowed:.0f}")
    return increases


async def update() -> None:
    """Store the new counts."""
    STORED_COUNTS.write_text(json.dumps(await _counts(), indent=1) + "\n")


async def _counts() -> dict[str, Mapping[str, float]]:
    async with database(GUARDED_OWNERS) as db:
        await db.fill("many", 1, GUARDED_TASKS)
        owner = (await db.fetch("SELECT md5('many1')"))[0]["md5"]
        pages = {name: cost.pages for name, cost in (await costs(db.url, owner)).items()}
        counted = await instructions(db)
    ratios = {
        operation: round(counted["service"][operation] / counted["baseline"][operation], 3)
        for operation in OPERATIONS
    }
    return {"instructions_to_baseline": ratios, "pages": pages}
