"""The SQL of change numbers: taking the next one, and the state and the feed of a user's changes.

A write takes its number before it locks anything else of the user. Two writes of one user therefore
run one after the other and cannot deadlock. The lock of the counter is released when the number can
be read, so the order of numbers is the order of commits. ``docs/decisions/0012-change-numbers.md``
compares the alternatives.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import asyncpg
from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    ScalarSelect,
    Select,
    bindparam,
    case,
    func,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert as upsert

from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS, task_from_row
from todo_adapters.postgres.tables import CHANGES, SYNC, TASKS
from todo_domain.sync import ChangeState, Epoch, FeedEntry, FeedPage

OWNER: Final = bindparam("owner", type_=TASKS.c.user_id.type)

_NEON_TIMELINE: Final = func.current_setting(
    literal_column("'neon.timeline_id'"),  # differs for every branch and restore at Neon
    literal_column("true"),
)


def take_number(condition: ColumnElement[bool]) -> CTE:
    """Take the owner's next change number if the condition holds: a row with ``last``, or none."""
    counter = upsert(CHANGES).from_select(
        ["user_id", "last"], select(OWNER, literal_column("1")).where(condition)
    )
    return (
        counter.on_conflict_do_update(
            index_elements=[CHANGES.c.user_id], set_={"last": CHANGES.c.last + literal_column("1")}
        )
        .returning(CHANGES.c.last)
        .cte("number")
    )


def locked_counter() -> CTE:
    """The owner's counter, locked. Writes of several tasks lock it before they read the tasks."""
    return (
        select(CHANGES.c.last)
        .where(CHANGES.c.user_id == OWNER)
        .with_for_update(key_share=True)
        .cte("counter")
        .prefix_with("MATERIALIZED")
    )


def after_lock(counter: CTE) -> ColumnElement[bool]:
    """A condition that is true, and that PostgreSQL evaluates after it has locked the counter."""
    return select(func.count()).select_from(counter).scalar_subquery() >= literal_column("0")


def with_state(
    page: Select[Any],
    *,
    keys: Sequence[ColumnElement[Any]],
    descending: bool = False,
    total: ScalarSelect[Any] | None = None,
    is_conditional: bool = False,
) -> Statement:
    """The page's rows in the order of the keys, each followed by the columns of the state.

    If the page is empty there is one row, whose other columns are null. A conditional page is not
    read if the last change number is the parameter ``unless_change``. ``total`` is one more column.
    """
    # Materialized, so that PostgreSQL tests the condition once, before it runs the page.
    state = (
        select(
            func.coalesce(CHANGES.c.last, literal_column("0")).label("last"),
            CHANGES.c.began_at,
            SYNC.c.epoch,
            _NEON_TIMELINE.label("timeline"),
        )
        .select_from(SYNC.outerjoin(CHANGES, CHANGES.c.user_id == OWNER))
        .cte("state")
        .prefix_with("MATERIALIZED")
    )
    columns = [column.name for column in page.selected_columns]
    names = [f"key_{number}" for number in range(len(keys))]
    keyed = page.add_columns(*(key.label(name) for key, name in zip(keys, names, strict=True)))
    rows: FromClause = keyed.subquery("page")
    known = bindparam("unless_change", type_=CHANGES.c.last.type)
    is_needed = state.c.last.is_distinct_from(known) if is_conditional else true()
    if is_conditional:
        rows = select(rows).where(is_needed).offset(literal_column("0")).lateral("page")
    selected = [*(rows.c[name] for name in columns), *state.c]
    if total is not None:
        selected.append(case((is_needed, total)).label("total"))
    order = [rows.c[name] for name in names]
    return Statement.compiled(
        select(*selected)
        .select_from(state.outerjoin(rows, true()))
        .order_by(*(key.desc() if descending else key.asc() for key in order))
    )


def state_from_row(row: asyncpg.Record) -> ChangeState:
    history = blake2b(f"{row['epoch']} {row['timeline']}".encode(), digest_size=8).hexdigest()
    return ChangeState(Epoch(history, row["began_at"]), row["last"])


def _feed() -> Statement:
    after = tuple_(
        bindparam("after_change", type_=TASKS.c.change.type),
        bindparam("after_id", type_=TASKS.c.id.type),
    )
    floor = bindparam("floor", type_=TASKS.c.change.type)
    page = (
        select(*TASK_COLUMNS, TASKS.c.change, TASKS.c.deleted_at)
        .where(
            TASKS.c.user_id == OWNER,
            tuple_(TASKS.c.change, TASKS.c.id) > after,
            TASKS.c.deleted_at.is_(None) | (TASKS.c.change > floor),
        )
        .order_by(TASKS.c.change, TASKS.c.id)
        .limit(bindparam("limit"))
    )
    return with_state(page, keys=(TASKS.c.change, TASKS.c.id))


FEED: Final = _feed()


def page_from_rows(rows: Sequence[asyncpg.Record], limit: int) -> FeedPage:
    """The page in rows of FEED, which has one row more than the page if more entries follow."""
    entries = tuple(
        FeedEntry(row["change"], row["id"], None if row["deleted_at"] else task_from_row(row))
        for row in rows[:limit]
        if row["id"] is not None
    )
    return FeedPage(entries, len(rows) > limit, state_from_row(rows[0]))
