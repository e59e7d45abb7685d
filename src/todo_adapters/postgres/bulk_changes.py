"""Changes every task that matches a filter: one statement, or a transaction if tasks repeat."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from todo_adapters.postgres import batch_statements, bulk_statements, filters
from todo_adapters.postgres.batches import write
from todo_adapters.postgres.database import Database, Fetch
from todo_adapters.postgres.rows import columns_of, task_from_row
from todo_domain.batch import StoredTask
from todo_domain.errors import TooManyAffected
from todo_domain.queries import TaskFilter
from todo_domain.task import TaskChanges


@dataclass(frozen=True, slots=True)
class BulkChange:
    """One call of ``TaskRepository.change_matching`` with clean changes."""

    owner: str
    wanted: TaskFilter
    changes: TaskChanges
    now: datetime
    max_affected: int | None


# The ids of the altered tasks, and the last change number that was taken.
Applied = tuple[tuple[UUID, ...], int | None]


async def apply(database: Database, call: BulkChange) -> Applied:
    """Apply the changes. Raises what the port raises."""
    if call.changes.get("repeat") is None:
        row = await _change_others(database.fetch, call, call.max_affected, skips_series=False)
        _require_allowed(call, row["affected"])
        if not row["has_series"]:
            return tuple(row["ids"] or ()), row["change_number"]
    return await database.transact(call.owner, lambda fetch: _change_each(fetch, call))


async def _change_others(
    fetch: Fetch, call: BulkChange, max_affected: int | None, *, skips_series: bool
) -> asyncpg.Record:
    """Change the tasks whose series does not depend on the changes."""
    columns = columns_of(call.changes, now=call.now)
    rows = await fetch(
        bulk_statements.change(filters.shape_of(call.wanted), frozenset(columns)),
        owner=call.owner,
        max_affected=max_affected,
        skips_series=skips_series,
        now=call.now,
        **filters.parameters_of(call.wanted),
        **columns,
    )
    return rows[0]


async def _change_each(fetch: Fetch, call: BulkChange) -> Applied:
    """Change the tasks of series one by one, and the other tasks at once."""
    sets_repeat = call.changes.get("repeat") is not None
    await fetch(batch_statements.LOCK_COUNTER, owner=call.owner)
    rows = await fetch(
        bulk_statements.lock_series(filters.shape_of(call.wanted), is_any=sets_repeat),
        owner=call.owner,
        **filters.parameters_of(call.wanted),
    )
    stored = {row["id"]: StoredTask(task_from_row(row)) for row in rows}
    changed = [state.task.changed(call.now, **call.changes) for state in stored.values()]
    new = [StoredTask(task) for task in changed if task is not stored[task.id].task]
    others: tuple[UUID, ...] = ()
    number: int | None = None
    if not sets_repeat:
        row = await _change_others(fetch, call, None, skips_series=True)
        others, number = tuple(row["ids"] or ()), row["change_number"]
    _require_allowed(call, len(new) + len(others))
    number = await write(fetch, call.owner, stored, new, call.now) or number
    return (*others, *(state.task.id for state in new)), number


def _require_allowed(call: BulkChange, affected: int) -> None:
    """Raise TooManyAffected, which undoes what the transaction has written."""
    if call.max_affected is not None and affected > call.max_affected:
        raise TooManyAffected(affected)
