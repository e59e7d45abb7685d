"""The Task aggregate: what a task is, its rules, and how it changes.

A ``Task`` is a value: every change returns a new one. A change that alters nothing returns the same
task, so that its version and times stay as they are.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Any, ClassVar, Final, Self, TypedDict, Unpack, cast
from unicodedata import normalize
from uuid import UUID, uuid5

from todo_domain.errors import InvalidTask, InvalidValue, Violation
from todo_domain.repeat import Repeat, clean_time_zone, local_time, next_due

TITLE_MAX: Final = 200
DESCRIPTION_MAX: Final = 2000
TAG_MAX: Final = 50
TAGS_MAX: Final = 20
POSITION_MAX: Final = 64
POSITION_FORM: Final = re.compile(rf"[0-9A-Za-z]{{0,{POSITION_MAX - 1}}}[1-9A-Za-z]", re.ASCII)


# Any character except white space, format characters that have no glyph (category Cf), Unicode's
# Default_Ignorable_Code_Point (also fillers and variation selectors), and the Braille blank.
# unicodedata does not have that property. Control characters count as visible, because browsers
# draw a glyph for them (CSS Text 3, section 4.1.1).
_VISIBLE: Final = re.compile(
    r"[^\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class Priority(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """1 for low to 3 for high: the number that priorities are stored and sorted by."""
        return _RANKS[self]

    @classmethod
    def of_rank(cls, rank: int) -> "Priority":
        """The priority with this rank. Raises ValueError."""
        for priority in cls:
            if priority.rank == rank and not isinstance(rank, bool):
                return priority
        raise ValueError(rank)


_RANKS: Final = {priority: rank for rank, priority in enumerate(Priority, 1)}


def fold(text: str) -> str:
    """The text for comparisons without regard to case and to equivalent spellings.

    It is the normalized full case folding of Unicode, section 3.13, D145: "STRASSE" and "straße"
    are equal, and so are both encodings of "é".
    """
    if text.isascii():
        return text.lower()
    return normalize("NFC", normalize("NFD", text).casefold())


class _CheckedText(str):
    """Text that passed the check of its class. An instance is not checked a second time.

    Lengths are code points. JavaScript's ``length`` is never smaller, so text that passes a length
    check there passes here too.
    """

    __slots__ = ()
    _max_length: ClassVar[int]
    _is_trimmed: ClassVar[bool] = True

    def __new__(cls, text: str) -> Self:
        """The text, trimmed if its class says so. Raises InvalidValue."""
        if isinstance(text, cls):
            return text
        if cls._is_trimmed:
            text = text.strip()
        _check_text(text, cls._max_length)
        if cls._is_trimmed and not _VISIBLE.search(text):
            raise InvalidValue("blank", "must not be empty")
        return super().__new__(cls, text)


class Title(_CheckedText):
    """A title: 1 to TITLE_MAX characters, one of them visible, without outer white space."""

    __slots__ = ()
    _max_length = TITLE_MAX


class Description(_CheckedText):
    """A description: up to DESCRIPTION_MAX characters, kept exactly as they are."""

    __slots__ = ()
    _max_length = DESCRIPTION_MAX
    _is_trimmed = False


class Tag(_CheckedText):
    """A tag: 1 to TAG_MAX characters, one of them visible, without outer white space."""

    __slots__ = ()
    _max_length = TAG_MAX


def clean_tags(tags: Iterable[str]) -> tuple[Tag, ...]:
    """The tags in their order, without duplicates. Raises InvalidValue.

    Tags are equal if they are canonically equivalent (Unicode, NFC); the first spelling stays.
    """
    spellings: dict[str, Tag] = {}
    for tag in map(Tag, tags):
        spellings.setdefault(normalize_tag(tag), tag)
    unique = tuple(spellings.values())
    if len(unique) > TAGS_MAX:
        raise InvalidValue("too_many", f"must be at most {TAGS_MAX} tags")
    return unique


def normalize_tag(tag: str) -> str:
    """The tag in the form by which tags are compared: Unicode's NFC."""
    return tag if tag.isascii() else normalize("NFC", tag)


def clean_position(position: str) -> str:
    """A key of the order by hand, as it is. Raises InvalidValue.

    Keys are compared byte by byte. None ends in 0, because no key fits between a key and the same
    key with a 0 at its end.
    """
    if POSITION_FORM.fullmatch(position) is None:
        message = f"must be 1 to {POSITION_MAX} characters of 0-9, A-Z and a-z, not ending in 0"
        raise InvalidValue("bad_position", message)
    return position


def clean_due_date(due: date | datetime) -> date | datetime:
    """A date as it is, a date-time in UTC. Raises InvalidValue."""
    return in_utc(due) if isinstance(due, datetime) else due


def in_utc(moment: datetime) -> datetime:
    """The same instant in UTC. Raises InvalidValue if it has no offset or is out of range."""
    if moment.tzinfo is None:
        raise InvalidValue("no_offset", "must have an offset from UTC, such as Z or +02:00")
    if moment.tzinfo is UTC:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue("out_of_range", "must lie between the years 1 and 9999 in UTC") from None


def due_instant(due: date | datetime) -> datetime:
    """The instant by which due dates are sorted and compared: for a date its midnight in UTC."""
    return due if isinstance(due, datetime) else datetime.combine(due, time.min, UTC)


def _check_text(text: str, max_length: int) -> None:
    """Raise InvalidValue if the text is too long or PostgreSQL cannot store it."""
    if len(text) > max_length:
        raise InvalidValue("too_long", f"must be at most {max_length} characters")
    if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
        raise InvalidValue("bad_character", "must not contain NUL or a lone surrogate")


class TaskChanges(TypedDict, total=False):
    """The members to set in a task. Absent members keep their value, or their default if new."""

    title: str
    description: str | None
    completed: bool
    priority: Priority | None
    due_date: date | datetime | None
    tags: Iterable[str]
    position: str | None
    repeat: Repeat | None
    time_zone: str | None


# The members that decide when the next task of a series is due, and whether there is one.
SERIES_MEMBERS: Final = frozenset({"completed", "due_date", "repeat", "time_zone"})
_VALIDATORS: Final[dict[str, Callable[[Any], object]]] = {
    "title": Title,
    "description": lambda text: None if text is None else Description(text),
    "due_date": lambda due: None if due is None else clean_due_date(due),
    "tags": clean_tags,
    "position": lambda position: None if position is None else clean_position(position),
    "time_zone": lambda name: None if name is None else clean_time_zone(name),
}


def clean_changes(changes: TaskChanges) -> TaskChanges:
    """The changes with the values that a task stores. Raises InvalidTask with every broken rule."""
    clean: dict[str, Any] = dict(changes)
    violations = []
    for name, validate in _VALIDATORS.items():
        if name in clean:
            try:
                clean[name] = validate(clean[name])
            except InvalidValue as invalid:
                field_name = ".".join((name, *invalid.path))
                violations.append(Violation(field_name, invalid.code, invalid.message))
    if violations:
        raise InvalidTask(violations)
    return cast("TaskChanges", clean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do, owned by one user.

    ``new`` and ``changed`` check the rules. The constructor does not: repositories make stored
    tasks with it. ``owner`` is the user's id exactly as in the token's ``sub``. Times are aware and
    in UTC. ``version`` counts the changes, from 1. The ``repr`` contains no text that the user
    wrote.

    ``anchor`` is the local time at which the first task of the series was due, None if it was this
    task. ``next_id`` is the id of the task that the completion of this one has made.
    """

    id: UUID
    owner: str
    title: str = field(repr=False)
    description: str | None = field(default=None, repr=False)
    priority: Priority | None = None
    due_date: date | datetime | None = None
    tags: tuple[str, ...] = field(default=(), repr=False)
    position: str | None = field(default=None, repr=False)
    repeat: Repeat | None = None
    time_zone: str | None = field(default=None, repr=False)
    anchor: datetime | None = None
    next_id: UUID | None = None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None
    version: int = 1

    @classmethod
    def new(
        cls, task_id: UUID, owner: str, now: datetime, **members: Unpack[TaskChanges]
    ) -> "Task":
        """A task created at ``now``, and completed at ``now`` if its members say so.

        Raises InvalidTask with every broken rule.
        """
        fields: dict[str, Any] = {**clean_changes(members)}
        completed_at = now if fields.pop("completed", False) else None
        task = cls(
            id=task_id,
            owner=owner,
            created_at=now,
            updated_at=now,
            completed_at=completed_at,
            **fields,
        )
        _check_series(task)
        return task

    @property
    def content(self) -> dict[str, object]:
        """The values of the members in ``TaskChanges``, by name."""
        return {name: getattr(self, name) for name in TaskChanges.__annotations__}

    @property
    def completed(self) -> bool:
        return self.completed_at is not None

    def changed(self, now: datetime, **changes: Unpack[TaskChanges]) -> "Task":
        """This task with the given members replaced; the same task if they alter nothing.

        Raises InvalidTask with every broken rule.
        """
        fields: dict[str, Any] = {**clean_changes(changes)}
        if fields.pop("completed", self.completed) != self.completed:
            fields["completed_at"] = None if self.completed else now
        # The clock may have been set back; ``updated_at`` never decreases.
        updated_at = max(now, self.updated_at)
        changed = replace(self, **fields, updated_at=updated_at, version=self.version + 1)
        return self if changed.content == self.content else _in_series(self, changed)

    def toggled(self, now: datetime) -> "Task":
        """This task with its completion inverted."""
        return self.changed(now, completed=not self.completed)

    def needs_save(self, changes: TaskChanges) -> bool:
        """Whether the changes depend on the task's series, or alter other tasks of it.

        Then a repository cannot apply them without reading the task.
        """
        in_series = self.repeat or self.next_id or changes.get("repeat")
        return in_series is not None and not SERIES_MEMBERS.isdisjoint(changes)

    def is_made_by(self, completed: "Task") -> bool:
        """Whether the completion of that task has made this one, which was not changed since."""
        is_made = self.id == completed.next_id and self.created_at == completed.completed_at
        return is_made and self.version == 1 and not self.completed

    def successor(self) -> "Task | None":
        """The task that follows this completed one in its series; None if there is none.

        Its id is derived from this task's id and its due date, so that each device makes the same.
        """
        if self.repeat is None or self.due_date is None or self.completed_at is None:
            return None
        due = next_due(
            self.repeat,
            self.due_date,
            self.completed_at,
            time_zone=self.time_zone,
            anchor=self.anchor,
        )
        if due is None:
            return None
        return replace(
            self,
            id=uuid5(self.id, _due_text(due)),
            due_date=due,
            anchor=self.anchor or local_time(self.due_date, self.time_zone),
            created_at=self.completed_at,
            updated_at=self.completed_at,
            completed_at=None,
            next_id=None,
            version=1,
        )


def _check_series(task: Task) -> None:
    """Raise InvalidTask if the task repeats without a due date, or has a time without a zone."""
    if task.repeat is None:
        return
    if task.due_date is None:
        message = "must be set, because the task repeats"
        raise InvalidTask([Violation("due_date", "required", message)])
    if isinstance(task.due_date, datetime) and task.time_zone is None:
        message = "must be set, because the task repeats and its due date has a time"
        raise InvalidTask([Violation("time_zone", "required", message)])


def _in_series(before: Task, after: Task) -> Task:
    """The changed task with the anchor and the ``next_id`` that follow from the change.

    A task that was reopened and whose successor stayed makes no other one. Raises InvalidTask.
    """
    _check_series(after)
    if (before.due_date, before.repeat, before.time_zone) != (
        after.due_date,
        after.repeat,
        after.time_zone,
    ):
        after = replace(after, anchor=None)
    if before.completed or before.next_id is not None:
        return after
    successor = after.successor()
    return after if successor is None else replace(after, next_id=successor.id)


def _due_text(due: date | datetime) -> str:
    """The due date as clients read it."""
    if not isinstance(due, datetime):
        return due.isoformat()
    return due.isoformat(timespec="microseconds").replace("+00:00", "Z")
