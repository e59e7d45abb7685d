"""Builders of tasks. A test names only the members that it is about."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypedDict, Unpack
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

from todo_domain.queries import TaskFilter
from todo_domain.repeat import Repeat, Unit
from todo_domain.task import POSITION_MAX, Priority, Task

# The members of a task that clients may omit, with their values in JSON then.
OPTIONAL_MEMBERS: Final[dict[str, object]] = {
    "description": None,
    "completed": False,
    "priority": None,
    "due_date": None,
    "tags": [],
    "position": None,
    "repeat": None,
    "time_zone": None,
}
# The members of a task in JSON, in this order.
MEMBERS: Final = [
    *("id", "user_id", "title", "description", "completed", "priority", "due_date", "tags"),
    *("position", "repeat", "time_zone", "created_at", "updated_at", "completed_at", "version"),
]

NOW: Final = datetime(2026, 1, 18, 9, 30, tzinfo=UTC)
LATER: Final = NOW + timedelta(minutes=1)
COMPLETED: Final = TaskFilter(completed=True)

# Each is a valid title: it neither starts nor ends with white space.
HOSTILE_TEXTS: Final = (
    "👩‍👩‍👧‍👦 and 🏳️‍🌈",
    "שלום \u202eسلم\u202c",
    "'; DROP TABLE todo.tasks; --",
    "\"double\" 'single' `back` $1 %s {} <b>&amp;</b>",
    "100% _of_ C:\\temp\\",
    "line\nbreak\r\nand\ttab",
    "e\u0301 is not \u00e9",
    "\u200b\ufeff\u0001\x7f\U0010ffff",
    "x" * 200,
)


class Members(TypedDict, total=False):
    id: UUID
    owner: str
    title: str
    description: str | None
    priority: Priority | None
    due_date: date | datetime | None
    tags: tuple[str, ...]
    position: str | None
    repeat: Repeat | None
    time_zone: str | None
    anchor: datetime | None
    next_id: UUID | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    version: int


def a_task(**members: Unpack[Members]) -> Task:
    """A new task of ada's with the given members."""
    return replace(Task.new(uuid4(), "ada", NOW, title="Buy milk"), **members)


def a_repeating_task(**members: Unpack[Members]) -> Task:
    """A task that was due today and repeats every day."""
    return replace(a_task(due_date=NOW.date(), repeat=Repeat(Unit.DAY)), **members)


def mixed_tasks(owner: str = "ada") -> list[Task]:
    """Thirty unordered tasks, with ties and missing values in every member that a list sorts by."""
    return [_mixed(owner, number) for number in range(30)]


def _mixed(owner: str, number: int) -> Task:
    # The periods differ, so that many combinations of values occur.
    created_at = NOW + timedelta(microseconds=number * 7 % 11)
    return a_task(
        id=uuid5(NAMESPACE_OID, f"{owner} {number}"),
        owner=owner,
        title=_TITLES[number % len(_TITLES)],
        description=_DESCRIPTIONS[number % len(_DESCRIPTIONS)],
        priority=_PRIORITIES[number % len(_PRIORITIES)],
        due_date=_DUE_DATES[number % len(_DUE_DATES)],
        tags=_TAGS[number % len(_TAGS)],
        position=_POSITIONS[number % len(_POSITIONS)],
        created_at=created_at,
        updated_at=created_at + timedelta(seconds=number * 5 % 13),
        completed_at=LATER if number % 9 < 4 else None,
        version=1 + number % 2,
    )


_TITLES: Final = (
    "Buy milk",
    "buy Milk",
    "ÉCOLE",
    "école buissonnière",
    "100% done",
    "100_ C:\\",
    "z",
)
_DESCRIPTIONS: Final = (None, "", "MILK, Straße and Ω", "100 percent", "Éc\nole", "%_\\")
_PRIORITIES: Final = (None, Priority.HIGH, Priority.LOW, Priority.MEDIUM)
_DUE_DATES: Final = (
    None,
    date(2026, 1, 20),
    datetime(2026, 1, 20, tzinfo=UTC),
    datetime(2026, 1, 20, 0, 0, 0, 1, tzinfo=UTC),
    date(2026, 1, 19),
)
_TAGS: Final[tuple[tuple[str, ...], ...]] = ((), ("home",), ("work", "home"))
# In the order of their bytes, which is not that of any language.
_POSITIONS: Final = (None, "1", "Zz", "a", "a1", "z", None, "z" * POSITION_MAX)
