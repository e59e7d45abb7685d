"""What tasks look like on the wire, in and out. The rules behind the fields are the domain's."""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, Required

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
    with_config,
)
from pydantic.config import JsonDict
from typing_extensions import TypedDict

from todo_domain import task as domain
from todo_domain.errors import InvalidValue
from todo_domain.queries import PAGE_MAX, Sort, SortBy, TaskFilter

TAGS_SENT_MAX: Final = 100  # before those that mean the same are one

_DUE_DATE: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d))?", re.ASCII
)


def parse_priority(text: str) -> domain.Priority:
    """A priority in any case. Raises InvalidValue."""
    try:
        return domain.Priority(text.lower())
    except ValueError:
        raise InvalidValue("unknown_value", "must be low, medium or high") from None


def few_tags(tags: object) -> object:
    """No tags for null. Raises InvalidValue before thousands of tags are wrong one by one."""
    if isinstance(tags, list) and len(tags) > TAGS_SENT_MAX:
        raise InvalidValue("too_many", f"must be at most {domain.TAGS_MAX} tags")
    return [] if tags is None else tags


def parse_search_text(text: str) -> str:
    """Text to look for; an empty search box looks for none. Raises InvalidValue."""
    return domain.Title(text) if text.strip() else ""


def parse_sort(text: str) -> Sort:
    """A field to sort by, descending with ``-`` in front. Raises InvalidValue."""
    try:
        return Sort(SortBy(text.removeprefix("-")), descending=text.startswith("-"))
    except ValueError:
        raise InvalidValue("unknown_value", f"must be one of {', '.join(SortBy)}") from None


def parse_due_date(text: str) -> date | datetime:
    """An RFC 3339 full-date or date-time, cut to microseconds. Raises InvalidValue."""
    form = _DUE_DATE.fullmatch(text)
    if form is None:
        raise InvalidValue("bad_date", "must be a date like 2026-01-31 or 2026-01-31T09:30:00Z")
    try:
        if form["time"] is None:
            return date.fromisoformat(text)
        due = datetime.fromisoformat(text.upper())
    except ValueError:
        raise InvalidValue("bad_date", "must be a day and a time that exist") from None
    return domain.in_utc(due)


def _of_text(rule: Callable[[str], object], **schema: object) -> tuple[Any, Any]:
    """A string and its rule; the schema's bounds are the rule's, which counts after trimming."""

    def validated(value: object) -> object:
        if not isinstance(value, str):
            raise InvalidValue("wrong_type", "must be a string")
        return rule(value)

    return PlainValidator(validated), WithJsonSchema({"type": "string", **schema})


Title = Annotated[str, *_of_text(domain.Title, minLength=1, maxLength=domain.TITLE_MAX)]
Description = Annotated[str, *_of_text(domain.Description, maxLength=domain.DESCRIPTION_MAX)]
SearchText = Annotated[str, *_of_text(parse_search_text, maxLength=domain.TITLE_MAX)]
_PRIORITY: Final[JsonDict] = {"enum": [priority.value for priority in domain.Priority]}
Priority = Annotated[domain.Priority, *_of_text(parse_priority, **_PRIORITY)]
# Each with its type: generators of clients look no further.
_DATE_OR_TIME: Final = [{"type": "string", "format": form} for form in ("date", "date-time")]
DueDate = Annotated[date | datetime, *_of_text(parse_due_date, anyOf=_DATE_OR_TIME)]
DueBound = Annotated[
    datetime,
    *_of_text(lambda text: domain.due_instant(parse_due_date(text)), anyOf=_DATE_OR_TIME),
]
SortOrder = Annotated[
    Sort, *_of_text(parse_sort, enum=[sign + by for by in SortBy for sign in ("", "-")])
]
Tag = Annotated[str, *_of_text(domain.Tag, minLength=1, maxLength=domain.TAG_MAX)]
Tags = Annotated[
    list[Tag],
    AfterValidator(domain.clean_tags),
    BeforeValidator(few_tags),
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "items": {"type": "string", "minLength": 1, "maxLength": domain.TAG_MAX},
            "maxItems": domain.TAGS_MAX,
        }
    ),
]

# Frontends send both spellings; answers have the first.
_DUE_DATE_SPELLINGS: Final = Field(validation_alias=AliasChoices("due_date", "dueDate"))


@with_config(strict=True)
class NewTask(TypedDict, total=False):
    """A task to create. Members that are read-only or unknown are ignored."""

    title: Required[Title]
    description: Description | None
    completed: bool
    priority: Priority | None
    due_date: Annotated[DueDate | None, _DUE_DATE_SPELLINGS]
    tags: Tags


@with_config(strict=True)
class TaskChanges(TypedDict, total=False):
    """The members to change: null clears, an absent member keeps its value."""

    title: Title
    description: Description | None
    completed: bool
    priority: Priority | None
    due_date: Annotated[DueDate | None, _DUE_DATE_SPELLINGS]
    tags: Tags


@with_config(strict=True)
class Completion(TypedDict, total=False):
    """The wanted completion; without it the task is toggled."""

    completed: bool


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@with_config(title="Task")
class Task(TypedDict):
    """A task as it is stored. Times are in UTC."""

    id: Annotated[str, Field(json_schema_extra={"format": "uuid"})]
    user_id: str
    title: str
    description: str | None
    completed: bool
    priority: Annotated[str, Field(json_schema_extra=_PRIORITY)] | None
    due_date: Annotated[str | None, Field(description="A date as it was sent, a date-time in UTC.")]
    tags: list[str]
    created_at: Time
    updated_at: Time
    completed_at: Time | None
    version: int


# What a body may hold when a client asks to be told of anything else.
KNOWN_MEMBERS: Final = frozenset(Task.__annotations__) | {"dueDate"}


def serialize_task(task: domain.Task) -> dict[str, object]:
    """The members of ``Task``, with values that ``to_json`` writes as the contract shows them."""
    due = task.due_date
    return {
        "id": str(task.id),
        "user_id": task.owner,
        "title": task.title,
        "description": task.description,
        "completed": task.completed,
        "priority": task.priority,
        "due_date": format_time(due) if isinstance(due, datetime) else due,
        "tags": task.tags,
        "created_at": format_time(task.created_at),
        "updated_at": format_time(task.updated_at),
        "completed_at": task.completed_at and format_time(task.completed_at),
        "version": task.version,
    }


def to_json(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def format_time(moment: datetime) -> datetime | str:
    """What orjson writes as ``utc`` does: by itself it leaves out a fraction of nothing."""
    return moment if moment.microsecond else utc(moment)


def utc(moment: datetime) -> str:
    """An aware UTC time as RFC 3339 with microseconds and Z."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


class ListQuery(BaseModel):
    """The query of a list, as the contract names its parameters."""

    status: Annotated[
        Literal["all", "pending", "completed"] | None,
        Field(description="Which tasks; wins over `completed`."),
    ] = None
    completed: Annotated[
        Literal["true", "false"] | None, Field(description="Another spelling of `status`.")
    ] = None
    priority: Priority | None = None
    tag: Annotated[
        list[Tag], Field(description="Only tasks with this tag; of several, with all of them.")
    ] = []
    due_before: Annotated[DueBound | None, Field(description="Exclusive.")] = None
    due_after: Annotated[DueBound | None, Field(description="Exclusive.")] = None
    q: Annotated[
        SearchText | None,
        Field(description="Text to look for in title and description, in any case."),
    ] = None
    sort: Annotated[SortOrder | None, Field(description="`-` in front: descending.")] = None
    order: Annotated[
        Literal["asc", "desc"] | None,
        Field(description="The direction; wins over the sign of `sort`."),
    ] = None
    limit: Annotated[int | None, Field(ge=1, le=PAGE_MAX)] = None
    cursor: Annotated[
        str | None, Field(description="Opaque; from the `Link` header of the page before.")
    ] = None

    def filter(self) -> TaskFilter:
        return TaskFilter(
            completed=self._completed(),
            priority=self.priority,
            tags=tuple(self.tag),
            due_before=self.due_before,
            due_after=self.due_after,
            text=self.q or None,
        )

    def sorting(self) -> Sort:
        sort = self.sort or Sort()
        return sort if self.order is None else Sort(sort.by, descending=self.order == "desc")

    def _completed(self) -> bool | None:
        if self.status is not None:
            return None if self.status == "all" else self.status == "completed"
        return None if self.completed is None else self.completed == "true"


class ClearQuery(BaseModel):
    """Which tasks to delete at once; only completed ones can be."""

    status: Literal["completed"] | None = None


class Cleared(TypedDict):
    """How many tasks were deleted."""

    deleted: int
