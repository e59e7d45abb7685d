"""The benchmark's command line."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.growth import growth
from bench.guard import check, update
from bench.load import OPERATIONS, MissingProgram
from bench.progress import Progress
from bench.rounds import Samples, WrongAnswers, is_conclusive, measure
from bench.stage import database
from bench.strain import latency_over_network, overload, rest, round_trips, steady, workers

app = typer.Typer(
    help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)

Out = Annotated[Path, typer.Option(help="Where the results go; the plot goes beside them.")]


@app.command()
def run(
    out: Out = Path("bench.json"),
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    seconds: Annotated[int, typer.Option(min=1, help="Of each load.")] = 3,
) -> None:
    """Service and floor in turn: throughput, latency, CPU, as ratios."""
    samples, trips = asyncio.run(_run(rounds, seconds))
    report.save(out, samples, trips)
    out.with_suffix(".svg").write_text(report.plot(samples))
    typer.echo(f"{report.machine()}\n\n{report.table(samples, trips)}")
    typer.echo(f"Results are in {out} and {out.with_suffix('.svg')}.")
    if not is_conclusive(samples):
        raise typer.Exit(1)


@app.command()
def compare(first: Path, second: Path) -> None:
    """Two files of results."""
    typer.echo(report.compared(first, second))


@app.command("growth")
def show_growth(
    index: Annotated[
        list[str] | None, typer.Option(help="SQL that adds an index to judge.")
    ] = None,
) -> None:
    """What each statement reads for users with a hundred, ten thousand and a million tasks."""
    typer.echo(asyncio.run(growth(index or ())))


@app.command("strain")
def show_strain() -> None:
    """Many connections, a steady rate, a slow network, two workers, starting and resting."""
    for part in (rest, overload, steady, latency_over_network, workers):
        typer.echo(asyncio.run(part()))


@app.command()
def guard(
    accept: Annotated[bool, typer.Option("--accept", help="Make this the new baseline.")] = False,
) -> None:
    """Compare exact counts with the committed baseline."""
    if accept:
        asyncio.run(update())
        return
    complaints = asyncio.run(check())
    for complaint in complaints:
        typer.echo(complaint, err=True)
    raise typer.Exit(1 if complaints else 0)


async def _run(rounds: int, seconds: int) -> tuple[Samples, dict[str, int]]:
    progress = Progress(3 * rounds * len(OPERATIONS) + 2)
    progress.step("preparing")
    async with database() as place:
        samples = await measure(place, rounds, seconds, progress)
        progress.step("round trips")
        trips = await round_trips(place)
    progress.end()
    return samples, trips


if __name__ == "__main__":
    try:
        app()
    except (MissingProgram, WrongAnswers) as failure:
        raise SystemExit(f"bench: {failure}") from None
