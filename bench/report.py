"""Results as a file, a table and a plot; two files compared."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.rounds import TARGETS, Ratio, Sample, Samples, control, is_conclusive, rate_ratios

_CAPTION: Final = "Throughput to the floor; lines span all rounds, red marks are the targets"


def save(path: Path, samples: Samples, trips: Mapping[str, int]) -> None:
    """Everything that was measured, and where and when."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "round_trips": trips,
        "samples": {
            operation: {name: [asdict(sample) for sample in of[name]] for name in of}
            for operation, of in samples.items()
        },
    }
    path.write_text(json.dumps(document, indent=1))


def load(path: Path) -> tuple[dict[str, Any], Samples]:
    """What ``save`` has written: the document, and its samples."""
    document = json.loads(path.read_text())
    samples = {
        operation: {name: [Sample(**sample) for sample in of[name]] for name in of}
        for operation, of in document["samples"].items()
    }
    return document, samples


def machine() -> str:
    """What this machine is, in a line."""
    cores = os.cpu_count()
    with Path("/proc/cpuinfo").open() as lines:
        model = next(
            (line.partition(": ")[2].strip() for line in lines if "model name" in line), ""
        )
    return f"{model}, {cores} cores, Python {platform.python_version()}"


def table(samples: Samples, trips: Mapping[str, int]) -> str:
    """Markdown: the ratios with their spread, and what stands behind them."""
    rows: list[tuple[str, ...]] = [
        (
            *("operation", "throughput to floor", "target", "CPU to floor", "requests/s"),
            *("p50 ms", "p99 ms", "CPU µs", "round trips", "MiB", "floor to itself"),
        )
    ]
    for operation, of in samples.items():
        pair = (of["service"], [*of["floor"], *of["again"]])
        target = TARGETS.get(operation)
        rows.append(
            (
                operation,
                str(rate_ratios(of)),
                f"{target:.2f}" if target else "",
                f"{_middle(pair[0], 'cpu') / _middle(pair[1], 'cpu'):.2f}",
                " / ".join(f"{_middle(of, 'rate'):,.0f}" for of in pair),
                " / ".join(f"{_middle(of, 'p50'):.1f}" for of in pair),
                " / ".join(f"{_middle(of, 'p99'):.1f}" for of in pair),
                " / ".join(f"{_middle(of, 'cpu'):.0f}" for of in pair),
                str(trips.get(operation, "")),
                f"{_middle(pair[0], 'memory'):.0f}",
                str(control(of)),
            )
        )
    verdict = "" if is_conclusive(samples) else "\nThe floor was not like itself: no conclusion.\n"
    return markdown(rows) + verdict


def compared(first: Path, second: Path) -> str:
    """Markdown: the ratios of two files, and the change where the rounds do not overlap."""
    (_, before), (_, after) = load(first), load(second)
    rows = [("operation", first.stem, second.stem, "change", "certain")]
    for operation in before:
        old, new = rate_ratios(before[operation]), rate_ratios(after[operation])
        change = new.middle / old.middle - 1
        rows.append(
            (operation, str(old), str(new), f"{change:+.1%}", "yes" if _apart(old, new) else "no")
        )
    return markdown(rows)


def plot(samples: Samples) -> str:
    """SVG: the ratio of each operation with its spread, and its target."""
    width, step, top, scale = 640, 44, 40, 480
    height = top + step * len(samples) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22">{_CAPTION}</text>',
    ]
    for number, (operation, of) in enumerate(samples.items()):
        y, ratio = top + step * number, rate_ratios(of)
        parts += _bar(operation, ratio, TARGETS.get(operation), y, scale)
    for tenth in range(0, 11, 2):
        x = 100 + scale * tenth / 10
        parts.append(f'<text x="{x:.0f}" y="{height - 8}" text-anchor="middle">{tenth / 10}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _bar(name: str, ratio: Ratio, target: float | None, y: int, scale: int) -> list[str]:
    low, middle, high = (
        100 + scale * value for value in (ratio.least, ratio.middle, ratio.greatest)
    )
    parts = [
        f'<text x="90" y="{y + 20}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="100" y="{y + 4}" width="{middle - 100:.0f}" height="24" fill="#4a7ab5"/>',
        f'<line x1="{low:.0f}" x2="{high:.0f}" y1="{y + 16}" y2="{y + 16}" stroke="black"/>',
        f'<text x="{high + 8:.0f}" y="{y + 20}">{ratio.middle:.2f}</text>',
    ]
    if target:
        x = f"{100 + scale * target:.0f}"
        ends = f'x1="{x}" x2="{x}" y1="{y}" y2="{y + 32}"'
        parts.append(f'<line {ends} stroke="#c33" stroke-width="2"/>')
    return parts


def _middle(samples: Sequence[Sample], what: str) -> float:
    values: list[float] = [getattr(sample, what) for sample in samples]
    return median(values)


def _apart(old: Ratio, new: Ratio) -> bool:
    return new.least > old.greatest or new.greatest < old.least


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table; the first is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
