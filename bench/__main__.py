"""Measures the service and compares it with a hand-written baseline."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.environment import database
from bench.growth import growth
from bench.guard import check, update
from bench.load import OPERATIONS, MissingProgram
from bench.migration import migration
from bench.progress import Progress
from bench.rounds import InvalidRun, Samples, is_conclusive, measure
from bench.streams import streams
from bench.stress import (
    constant_rate,
    latency_over_network,
    overload,
    round_trips,
    startup,
    workers,
)
from bench.writes import writes

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)

Out = Annotated[Path, typer.Option(help="File for the results. The plot has the suffix .svg.")]


@app.command()
def run(
    out: Out = Path("bench.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 7,
    seconds: Annotated[int, typer.Option(min=1, help="Duration of each load.")] = 3,
) -> None:
    """Measure throughput, latency and CPU as ratios to the baseline."""
    samples, trips = asyncio.run(_run(rounds, seconds))
    report.save(out, samples, trips)
    out.with_suffix(".svg").write_text(report.plot(samples))
    typer.echo(f"{report.machine()}\n\n{report.table(samples, trips)}")
    typer.echo(f"The results are in {out} and {out.with_suffix('.svg')}.")
    if not is_conclusive(samples):
        raise typer.Exit(1)


@app.command()
def compare(first: Path, second: Path) -> None:
    """Compare two files of results."""
    typer.echo(report.compared(first, second))


@app.command("growth")
def show_growth(
    index: Annotated[
        list[str] | None, typer.Option(help="SQL that creates an additional index.")
    ] = None,
) -> None:
    """Count the pages that each statement reads, by tasks per user."""
    typer.echo(asyncio.run(growth(index or ())))


@app.command("stress")
def show_stress() -> None:
    """Measure start-up, overload, a constant rate, a slow network and two workers."""
    for part in (startup, overload, constant_rate, latency_over_network, workers):
        typer.echo(asyncio.run(part()))


@app.command("migration")
def show_migration() -> None:
    """Time the migration of 1,000,000 tasks of version 0.1, and the waits of clients meanwhile."""
    typer.echo(asyncio.run(migration()))


@app.command("streams")
def show_streams() -> None:
    """Measure 2,000 streams on one worker: memory, the time to an event, the shutdown."""
    typer.echo(asyncio.run(streams()))


@app.command("writes")
def show_writes() -> None:
    """Time the writes of the repository, batches included, and run concurrent batches."""
    typer.echo(asyncio.run(writes()))


@app.command()
def guard(
    accept: Annotated[bool, typer.Option("--accept", help="Store the new counts.")] = False,
) -> None:
    """Compare instruction and page counts with the stored counts."""
    if accept:
        asyncio.run(update())
        return
    increases = asyncio.run(check())
    for increase in increases:
        typer.echo(increase, err=True)
    raise typer.Exit(1 if increases else 0)


async def _run(rounds: int, seconds: int) -> tuple[Samples, dict[str, int]]:
    progress = Progress(3 * rounds * len(OPERATIONS) + 2)
    progress.step("preparing")
    async with database() as db:
        samples = await measure(db, rounds, seconds, progress)
        progress.step("round trips")
        trips = await round_trips(db)
    progress.end()
    return samples, trips


if __name__ == "__main__":
    try:
        app()
    except (MissingProgram, InvalidRun) as error:
        raise SystemExit(f"bench: {error}") from None
