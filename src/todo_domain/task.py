"""The Task aggregate: what a task is, the rules it keeps, and how it changes.

A ``Task`` is a value: every transition returns a new one. A transition that alters nothing returns
the task itself, so that an idle edit leaves version and times alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Any, Final, TypedDict, Unpack
from uuid import UUID

from todo_domain.errors import InvalidTask, InvalidValue, Violation

TITLE_MAX: Final = 200
DESCRIPTION_MAX: Final = 2000
TAG_MAX: Final = 50
TAGS_MAX: Final = 20


class Priority(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """1 for low to 3 for high: the order that people mean."""
        return _RANKS[self]

    @classmethod
    def of_rank(cls, rank: int) -> "Priority":
        """The priority with this rank. Raises ValueError."""
        for priority in cls:
            if priority.rank == rank and not isinstance(rank, bool):
                return priority
        raise ValueError(rank)


_RANKS: Final = {priority: rank for rank, priority in enumerate(Priority, 1)}


def clean_title(text: str) -> str:
    """The title without outer white space. Raises InvalidValue when blank or too long."""
    title = text.strip()
    if not title:
        raise InvalidValue("blank", "must not be empty")
    return _check_text(title, TITLE_MAX)


def clean_description(text: str) -> str:
    """The description exactly as it came. Raises InvalidValue when too long."""
    return _check_text(text, DESCRIPTION_MAX)


def clean_tag(text: str) -> str:
    """The tag without outer white space. Raises InvalidValue when blank or too long."""
    tag = text.strip()
    if not tag:
        raise InvalidValue("blank", "must not be empty")
    return _check_text(tag, TAG_MAX)


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Clean tags in their first order, each once; those that are clean, themselves.

    Raises InvalidValue for a bad tag or too many.
    """
    unique = tuple(dict.fromkeys(map(clean_tag, tags)))
    if len(unique) > TAGS_MAX:
        raise InvalidValue("too_many", f"must be at most {TAGS_MAX} tags")
    return tags if isinstance(tags, tuple) and tags == unique else unique


def clean_due_date(due: date | datetime) -> date | datetime:
    """A date as it is, a date-time in UTC. Raises InvalidValue for one that names no instant."""
    return in_utc(due) if isinstance(due, datetime) else due


def in_utc(moment: datetime) -> datetime:
    """The same instant in UTC. Raises InvalidValue for a time that names none, or none in range."""
    if moment.tzinfo is None:
        raise InvalidValue("no_offset", "must have an offset from UTC, such as Z or +02:00")
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue("out_of_range", "must lie between the years 1 and 9999 in UTC") from None


def due_instant(due: date | datetime) -> datetime:
    """The instant that a due date sorts and compares by: a plain date is its midnight in UTC."""
    return due if isinstance(due, datetime) else datetime.combine(due, time.min, UTC)


def _check_text(text: str, longest: int) -> str:
    """Text that PostgreSQL can hold.

    Lengths are code points: never more than JavaScript counts, so what passes there passes here.
    """
    if len(text) > longest:
        raise InvalidValue("too_long", f"must be at most {longest} characters")
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise InvalidValue("bad_character", "must not contain NUL or a lone surrogate")
    return text


# Each member's rule, and what it is when nothing is said, which breaks none.
_VALIDATORS: Final[dict[str, tuple[Callable[[Any], object], object]]] = {
    "title": (clean_title, ...),  # has to be said
    "description": (clean_description, None),
    "due_date": (clean_due_date, None),
    "tags": (clean_tags, ()),
}


class TaskChanges(TypedDict, total=False):
    """The members an edit may name; the absent ones keep their value."""

    title: str
    description: str | None
    completed: bool
    priority: Priority | None
    due_date: date | datetime | None
    tags: Iterable[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do, belonging to one user. An instance that breaks a rule cannot exist.

    ``owner`` is the user's id exactly as the token's ``sub`` has it. Times are aware and in UTC.
    ``version`` counts the changes, from 1. Its ``repr`` has nothing that its author wrote. Raises
    InvalidTask, naming every broken rule.
    """

    id: UUID
    owner: str
    title: str = field(repr=False)
    description: str | None = field(default=None, repr=False)
    priority: Priority | None = None
    due_date: date | datetime | None = None
    tags: tuple[str, ...] = field(default=(), repr=False)
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None
    version: int = 1

    def __post_init__(self) -> None:
        violations = []
        for name, (rule, unsaid) in _VALIDATORS.items():
            value = getattr(self, name)
            if value == unsaid:
                continue
            try:
                clean = rule(value)
            except InvalidValue as broken:
                violations.append(Violation(name, broken.code, broken.message))
            else:
                if clean is not value:
                    object.__setattr__(self, name, clean)
        if violations:
            raise InvalidTask(violations)

    @classmethod
    def new(
        cls, task_id: UUID, owner: str, now: datetime, **members: Unpack[TaskChanges]
    ) -> "Task":
        """A task that begins at ``now``, completed already if its members say so."""
        fields: dict[str, Any] = dict(members)
        completed_at = now if fields.pop("completed", False) else None
        return cls(
            id=task_id,
            owner=owner,
            created_at=now,
            updated_at=now,
            completed_at=completed_at,
            **fields,
        )

    @property
    def content(self) -> dict[str, object]:
        """What its author wrote, by name: equal for two tasks made from the same members."""
        return {name: getattr(self, name) for name in TaskChanges.__annotations__}

    @property
    def completed(self) -> bool:
        return self.completed_at is not None

    def changed(self, now: datetime, **changes: Unpack[TaskChanges]) -> "Task":
        """This task with the given members replaced; itself when they alter nothing."""
        fields: dict[str, Any] = dict(changes)
        if fields.pop("completed", self.completed) != self.completed:
            fields["completed_at"] = None if self.completed else now
        # A clock that was set back must not make a task look older than it was.
        updated_at = max(now, self.updated_at)
        changed = replace(self, **fields, updated_at=updated_at, version=self.version + 1)
        return self if changed.content == self.content else changed

    def toggled(self, now: datetime) -> "Task":
        """This task completed if it was pending, pending if it was completed."""
        return self.changed(now, completed=not self.completed)
