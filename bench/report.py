"""Writes results as a file, a table and a plot, and compares two files."""

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

_CAPTION: Final = "Throughput as a ratio to the baseline; lines: all rounds; red: targets"


def save(path: Path, samples: Samples, trips: Mapping[str, int]) -> None:
    """Write all samples with date, machine and command."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "round_trips": trips,
        "samples": {
            operation: {
                name: [asdict(sample) for sample in series] for name, series in by_app.items()
            }
            for operation, by_app in samples.items()
        },
    }
    path.write_text(json.dumps(document, indent=1))


def load(path: Path) -> tuple[dict[str, Any], Samples]:
    """Read a file of ``save``: the document and its samples."""
    document = json.loads(path.read_text())
    samples = {
        operation: {
            name: [Sample(**sample) for sample in series] for name, series in by_app.items()
        }
        for operation, by_app in document["samples"].items()
    }
    return document, samples


def machine() -> str:
    """CPU, cores and Python version."""
    cores = os.cpu_count()
    with Path("/proc/cpuinfo").open() as lines:
        model = next(
            (line.partition(": ")[2].strip() for line in lines if "model name" in line), ""
        )
    return f"{model}, {cores} cores, Python {platform.python_version()}"


def table(samples: Samples, trips: Mapping[str, int]) -> str:
    """A Markdown table of the ratios with their spread, and the measured values."""
    rows: list[tuple[str, ...]] = [
        (
            *("operation", "throughput to baseline", "target", "CPU to baseline", "requests/s"),
            *("p50 ms", "p99 ms", "CPU µs", "round trips", "MiB", "baseline to itself"),
        )
    ]
    for operation, by_app in samples.items():
        pair = (by_app["service"], [*by_app["baseline"], *by_app["again"]])
        target = TARGETS.get(operation)
        rows.append(
            (
                operation,
                str(rate_ratios(by_app)),
                f"{target:.2f}" if target else "",
                f"{_median(pair[0], 'cpu') / _median(pair[1], 'cpu'):.2f}",
                " / ".join(f"{_median(series, 'rate'):,.0f}" for series in pair),
                " / ".join(f"{_median(series, 'p50'):.1f}" for series in pair),
                " / ".join(f"{_median(series, 'p99'):.1f}" for series in pair),
                " / ".join(f"{_median(series, 'cpu'):.0f}" for series in pair),
                str(trips.get(operation, "")),
                f"{_median(pair[0], 'memory'):.0f}",
                str(control(by_app)),
            )
        )
    verdict = (
        ""
        if is_conclusive(samples)
        else "\nNo conclusion: the two measurements of the baseline differ too much.\n"
    )
    return markdown(rows) + verdict


def compared(first: Path, second: Path) -> str:
    """A Markdown table of two files; a change is certain if the rounds do not overlap."""
    (_, before), (_, after) = load(first), load(second)
    rows = [("operation", first.stem, second.stem, "change", "certain")]
    for operation in before:
        old, new = rate_ratios(before[operation]), rate_ratios(after[operation])
        change = new.median / old.median - 1
        rows.append(
            (
                operation,
                str(old),
                str(new),
                f"{change:+.1%}",
                "yes" if _is_disjoint(old, new) else "no",
            )
        )
    return markdown(rows)


def plot(samples: Samples) -> str:
    """An SVG of the ratio of each operation with its spread and target."""
    width, step, top, scale = 640, 44, 40, 480
    height = top + step * len(samples) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22">{_CAPTION}</text>',
    ]
    for number, (operation, by_app) in enumerate(samples.items()):
        y, ratio = top + step * number, rate_ratios(by_app)
        parts += _bar(operation, ratio, TARGETS.get(operation), y, scale)
    for tenth in range(0, 11, 2):
        x = 100 + scale * tenth / 10
        parts.append(f'<text x="{x:.0f}" y="{height - 8}" text-anchor="middle">{tenth / 10}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _bar(name: str, ratio: Ratio, target: float | None, y: int, scale: int) -> list[str]:
    low, middle, high = (
        100 + scale * value for value in (ratio.minimum, ratio.median, ratio.maximum)
    )
    parts = [
        f'<text x="90" y="{y + 20}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="100" y="{y + 4}" width="{middle - 100:.0f}" height="24" fill="#4a7ab5"/>',
        f'<line x1="{low:.0f}" x2="{high:.0f}" y1="{y + 16}" y2="{y + 16}" stroke="black"/>',
        f'<text x="{high + 8:.0f}" y="{y + 20}">{ratio.median:.2f}</text>',
    ]
    if target:
        x = f"{100 + scale * target:.0f}"
        ends = f'x1="{x}" x2="{x}" y1="{y}" y2="{y + 32}"'
        parts.append(f'<line {ends} stroke="#c33" stroke-width="2"/>')
    return parts


def _median(samples: Sequence[Sample], name: str) -> float:
    values: list[float] = [getattr(sample, name) for sample in samples]
    return median(values)


def _is_disjoint(old: Ratio, new: Ratio) -> bool:
    return new.minimum > old.maximum or new.maximum < old.minimum


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table. The first row is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
