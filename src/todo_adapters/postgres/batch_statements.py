"""The SQL of batches: one statement decides about every operation and writes what it accepts.

It computes what ``todo_domain.batch.decide`` defines. The operations are the rows of a JSON array.
PostgreSQL locks the owner's counter, then the tasks of the operations in their newest versions;
only then it decides. If another batch has created a task meanwhile, the statement fails with a
unique violation and writes nothing.
"""

from typing import Any, Final

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, aggregate_order_by
from sqlalchemy.types import TypeEngine

from todo_adapters.postgres.change_numbers import OWNER, after_lock, locked_counter, take_number
from todo_adapters.postgres.database import Statement
from todo_adapters.postgres.rows import TASK_COLUMNS
from todo_adapters.postgres.statements import (
    COMPARED,
    FOLDED_COLUMNS,
    KEY_IS_VALID,
    KEYS_VALID_SINCE,
    NOW,
    RESTORABLE_AFTER,
    SERIES_COLUMNS,
    delete_expired_keys,
    is_equal,
    record_owner,
    store_key,
)
from todo_adapters.postgres.tables import IDEMPOTENCY_KEYS, TASKS
from todo_domain.batch import Refusal

CREATE: Final = "create"
CHANGE: Final = "change"
DELETE: Final = "delete"
RESTORE: Final = "restore"

_NAMES: Final = tuple(column.name for column in (*TASK_COLUMNS, *FOLDED_COLUMNS))
_WRITTEN: Final = tuple(name for name in _NAMES if name not in {"id", "user_id"})
_TIMES_AND_VERSION: Final = frozenset({"created_at", "updated_at", "version"})
_SERIES_STATE: Final = frozenset({"anchor", "next_id"})  # no members of ``TaskChanges``
_CONTENT: Final = tuple(name for name in _WRITTEN if name not in _TIMES_AND_VERSION)
# The columns of an outcome besides the task's.
_OUTCOME: Final[dict[str, type[TypeEngine[Any]]]] = {
    "number": Integer,
    "kind": Text,
    "refusal": Text,
    "is_visible": Boolean,
    "alters": Boolean,
    "has_series": Boolean,
}


def _operations() -> CTE:
    """The operations. ``sets`` has the names of the columns that an operation sets."""
    content = [column(name, TASKS.c[name].type) for name in _CONTENT]
    return (
        select(
            func.jsonb_to_recordset(bindparam("operations", type_=JSONB))
            .table_valued(
                column("number", Integer),
                column("kind", Text),
                column("id", TASKS.c.id.type),
                column("if_version", Integer),
                column("sets", ARRAY(Text)),
                *content,
                name="operation",
            )
            .render_derived(with_types=True)
        )
        .cte("operations")
        .prefix_with("MATERIALIZED")
    )


def _stored(operations: CTE) -> CTE:
    """The stored tasks of the operations, locked; also deleted ones that are not purged yet."""
    return (
        select(*(TASKS.c[name] for name in _NAMES), TASKS.c.deleted_at)
        .where(
            TASKS.c.user_id == OWNER,
            TASKS.c.id.in_(select(operations.c.id)),
            after_lock(locked_counter()),
        )
        .with_for_update()
        .cte("stored")
        .prefix_with("MATERIALIZED")
    )


def _decided(operations: CTE, stored: CTE) -> CTE:
    """Each operation with its ``refusal``, whether it ``differs`` from the task, and the row."""
    kind, sets = operations.c.kind, operations.c.sets
    is_stored = stored.c.id.is_not(None)
    is_live = and_(is_stored, stored.c.deleted_at.is_(None))
    is_restorable = and_(stored.c.deleted_at.is_not(None), stored.c.deleted_at > RESTORABLE_AFTER)
    is_missing = ~or_(is_live, is_restorable)
    is_same = and_(
        *(
            or_(~_includes(sets, name), is_equal(stored.c[name], operations.c[name]))
            for name in _CONTENT
            if name in COMPARED - _SERIES_STATE
        )
    )
    refusal = case(
        (
            kind == _CREATE,
            case((~or_(is_missing, and_(is_live, is_same)), _text(Refusal.ID_TAKEN))),
        ),
        (
            kind == _RESTORE,
            case((is_missing, _text(Refusal.NOT_FOUND)), (is_live, _text(Refusal.NOT_DELETED))),
        ),
        (~is_live, _text(Refusal.NOT_FOUND)),
        (operations.c.if_version != stored.c.version, _text(Refusal.STALE_VERSION)),
    )
    # Such a change is left to a transaction, which reads the task before it decides.
    has_series = and_(
        kind == _CHANGE,
        or_(*(_includes(sets, name) for name in sorted(SERIES_COLUMNS))),
        is_live,
        or_(stored.c.repeat.is_not(None), stored.c.next_id.is_not(None)),
    )
    differs = case((kind == _CREATE, is_missing), (kind == _CHANGE, ~is_same), else_=true())
    return (
        select(
            *operations.c,
            refusal.label("refusal"),
            differs.label("differs"),
            has_series.label("has_series"),
            is_live.label("is_live"),
            is_stored.label("is_stored"),
            *(stored.c[name].label(f"stored_{name}") for name in _WRITTEN),
        )
        .select_from(operations.outerjoin(stored, stored.c.id == operations.c.id))
        .cte("decided")
        .prefix_with("MATERIALIZED")
    )


def _new_values(decided: CTE) -> dict[str, ColumnElement[Any]]:
    """The values of the row after an operation that alters it."""
    is_new, is_change = decided.c.kind == _CREATE, decided.c.kind == _CHANGE
    stored = {name: decided.c[f"stored_{name}"] for name in _WRITTEN}
    values: dict[str, ColumnElement[Any]] = {
        name: case((_includes(decided.c.sets, name), decided.c[name]), else_=stored[name])
        for name in _CONTENT
    }
    is_still_completed = and_(is_change, values["completed_at"].is_not(None))
    return values | {
        "completed_at": case(
            (is_still_completed, func.coalesce(stored["completed_at"], decided.c.completed_at)),
            else_=values["completed_at"],
        ),
        "created_at": case((is_new, NOW), else_=stored["created_at"]),
        "updated_at": case(
            (is_new, NOW),
            # The clock may have been set back; ``updated_at`` never decreases.
            (is_change, func.greatest(stored["updated_at"], NOW)),
            else_=stored["updated_at"],
        ),
        "version": case(
            (is_new, literal_column("1")),
            (is_change, stored["version"] + literal_column("1")),
            else_=stored["version"],
        ),
    }


def _results(decided: CTE) -> CTE:
    """Each operation with the row of the task as it is after the batch was accepted."""
    new = _new_values(decided)
    alters = and_(decided.c.refusal.is_(None), decided.c.differs)
    row: dict[str, ColumnElement[Any]] = {"id": decided.c.id, "user_id": OWNER}
    for name in _WRITTEN:
        row[name] = case((alters, new[name]), else_=decided.c[f"stored_{name}"])
    return (
        select(
            *(row[name].label(name) for name in _NAMES),
            *(decided.c[name] for name in ("number", "kind", "refusal", "is_stored", "has_series")),
            alters.label("alters"),
            or_(decided.c.is_live, alters).label("is_visible"),
        )
        .cte("results")
        .prefix_with("MATERIALIZED")
    )


def _apply(*, with_key: bool) -> Statement:
    """Apply the operations, and return a row for each of them, in order.

    A row begins with TASK_COLUMNS: the task, if ``is_visible``. ``change_number`` is null if the
    statement has taken none. With a key, ``is_key_stored`` says whether this call has stored it.
    Nothing is written if an operation ``has_series``.
    """
    operations = _operations()
    results = _results(_decided(operations, _stored(operations)))
    is_refused = and_(
        bindparam("is_atomic", type_=Boolean), exists().where(results.c.refusal.is_not(None))
    )
    is_refused = or_(is_refused, exists().where(results.c.has_series))
    conditions = (~is_refused, ~KEY_IS_VALID) if with_key else (~is_refused,)
    accepted = select(results).where(results.c.alters, *conditions).cte("accepted")
    number = take_number(exists(select(accepted.c.id)))
    source: FromClause = number
    stored_key = None
    if with_key:
        outcomes = select(
            func.jsonb_agg(
                aggregate_order_by(func.to_jsonb(results.table_valued()), results.c.number)
            )
        ).scalar_subquery()
        one = select(literal_column("1")).cte("one")
        stored_key = store_key(one.outerjoin(number, true()), *conditions, outcomes=outcomes)
        source = number.join(stored_key, true())
    written = (_insert(accepted, number, source), _update(accepted, number, source))
    key_columns = (
        [] if stored_key is None else [exists(select(stored_key.c.key)).label("is_key_stored")]
    )
    taken = select(number.c.last).scalar_subquery().label("change_number")
    selected = select(*_result_columns(results), taken, *key_columns).order_by(results.c.number)
    other = (delete_expired_keys(),) if with_key else ()
    has_new = exists().where(accepted.c.kind == _CREATE)
    return Statement.compiled(selected.add_cte(*written, record_owner(has_new), *other))


def _insert(accepted: CTE, number: CTE, source: FromClause) -> CTE:
    values = {name: accepted.c[name] for name in _NAMES}
    row = {**values, "user_id": OWNER, "change": number.c.last}
    new = select(*row.values()).select_from(accepted.join(source, true()))
    return insert(TASKS).from_select(list(row), new.where(~accepted.c.is_stored)).cte("inserted")


def _update(accepted: CTE, number: CTE, source: FromClause) -> CTE:
    rows = select(accepted, number.c.last).select_from(accepted.join(source, true())).cte("changed")
    return (
        update(TASKS)
        .where(TASKS.c.user_id == OWNER, TASKS.c.id == rows.c.id, rows.c.is_stored)
        .values(
            **{name: rows.c[name] for name in _WRITTEN},
            deleted_at=case((rows.c.kind == _DELETE, NOW)),
            change=rows.c.last,
        )
        .cte("updated")
    )


def _result_columns(results: FromClause) -> list[ColumnElement[Any]]:
    names = (*(column.name for column in TASK_COLUMNS), *_OUTCOME)
    return [results.c[name] for name in names]


def _first_result() -> Statement:
    """The rows that the call with this key returned, with ``content``, the hash of its batch."""
    keys = IDEMPOTENCY_KEYS
    columns = [
        *(column(name, TASKS.c[name].type) for name in (c.name for c in TASK_COLUMNS)),
        *(column(name, kind) for name, kind in _OUTCOME.items()),
    ]
    results = (
        func.jsonb_to_recordset(keys.c.outcomes)
        .table_valued(*columns, name="result")
        .render_derived(with_types=True)
        .lateral()
    )
    return Statement.compiled(
        select(*_result_columns(results), keys.c.content)
        .select_from(keys.outerjoin(results, true()))
        .where(
            keys.c.user_id == OWNER,
            keys.c.key == bindparam("key"),
            keys.c.created_at >= KEYS_VALID_SINCE,
        )
        .order_by(results.c.number)
    )


def _includes(names: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the array includes the name; false for null."""
    return func.coalesce(_text(name) == func.any(names), false())


def _text(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'", Text)


_CREATE: Final = _text(CREATE)
_CHANGE: Final = _text(CHANGE)
_DELETE: Final = _text(DELETE)
_RESTORE: Final = _text(RESTORE)

APPLY: Final = _apply(with_key=False)
APPLY_WITH_KEY: Final = _apply(with_key=True)
GET_FIRST_RESULT: Final = _first_result()


# --- For servers that cannot plan the one statement -----------------------------------------------

_ROW: Final = {
    **{
        name: bindparam(name, type_=TASKS.c[name].type)
        for name in (*_NAMES, "deleted_at", "change")
    },
    "user_id": OWNER,
}
LOCK_COUNTER: Final = Statement.compiled(select(locked_counter()))
LOCK_TASKS: Final = Statement.compiled(
    select(*TASK_COLUMNS, TASKS.c.deleted_at)
    .where(
        TASKS.c.user_id == OWNER,
        TASKS.c.id == func.any(bindparam("ids", type_=ARRAY(TASKS.c.id.type))),
    )
    .with_for_update()
)
TAKE_NUMBER: Final = Statement.compiled(select(take_number(true())))
RECORD_OWNER: Final = Statement.compiled(select(literal_column("1")).add_cte(record_owner()))
INSERT_ROW: Final = Statement.compiled(insert(TASKS).values(_ROW))
REPLACE_ROW: Final = Statement.compiled(
    update(TASKS)
    .where(TASKS.c.user_id == OWNER, TASKS.c.id == _ROW["id"])
    .values({name: value for name, value in _ROW.items() if name not in {"id", "user_id"}})
)
STORE_KEY: Final = Statement.compiled(
    select(
        store_key(
            select(literal_column("1")).cte("one"),
            outcomes=bindparam("outcomes", type_=JSONB),
        )
    ).add_cte(delete_expired_keys())
)
