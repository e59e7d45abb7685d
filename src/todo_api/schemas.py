"""The JSON representation of tasks and queries. The domain's validators check the values."""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal, Required
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    PlainValidator,
    WithJsonSchema,
    with_config,
)
from pydantic.config import JsonDict
from pydantic_core import core_schema
from typing_extensions import TypedDict

from todo_domain import task as domain
from todo_domain.batch import OPERATIONS_MAX
from todo_domain.errors import InvalidValue
from todo_domain.queries import PAGE_MAX, Sort, SortBy, TaskFilter

TAGS_SENT_MAX: Final = 100  # duplicates included, which the domain removes

UUID_FORM: Final = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE
)
_DUE_DATE: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d))?", re.ASCII
)


def parse_priority(text: str) -> domain.Priority:
    """A priority, in upper or lower case. Raises InvalidValue."""
    try:
        return domain.Priority(text.lower())
    except ValueError:
        raise InvalidValue("unknown_value", "must be low, medium or high") from None


def limit_tags(tags: object) -> object:
    """The tags; null means no tags. Raises InvalidValue for too many, before each is validated."""
    if isinstance(tags, list) and len(tags) > TAGS_SENT_MAX:
        raise InvalidValue("too_many", f"must be at most {domain.TAGS_MAX} tags")
    return [] if tags is None else tags


def parse_search_text(text: str) -> str:
    """The text to search for, "" if it is blank. Raises InvalidValue."""
    return domain.Title(text) if text.strip() else ""


def parse_sort(text: str) -> Sort:
    """The field to sort by, with ``-`` in front for descending. Raises InvalidValue."""
    try:
        return Sort(SortBy(text.removeprefix("-")), descending=text.startswith("-"))
    except ValueError:
        raise InvalidValue("unknown_value", f"must be one of {', '.join(SortBy)}") from None


def parse_due_date(text: str) -> date | datetime:
    """An RFC 3339 full-date or date-time, truncated to microseconds. Raises InvalidValue."""
    match = _DUE_DATE.fullmatch(text)
    if match is None:
        raise InvalidValue("bad_date", "must be a date like 2026-01-31 or 2026-01-31T09:30:00Z")
    try:
        if match["time"] is None:
            return date.fromisoformat(text)
        due = datetime.fromisoformat(text.upper())
    except ValueError:
        raise InvalidValue("bad_date", "must be a date and time that exist") from None
    return domain.in_utc(due)


def _text(parse: Callable[[str], object], **schema: object) -> tuple[Any, Any]:
    """A string that ``parse`` validates. ``schema`` describes what ``parse`` accepts.

    The type is checked as an instance of str, because Pydantic's own string validation refuses a
    lone surrogate before ``parse`` can.
    """
    text = core_schema.is_instance_schema(str, cls_repr="string")
    parsed = core_schema.no_info_after_validator_function(parse, text)
    return GetPydanticSchema(lambda *_: parsed), WithJsonSchema({"type": "string", **schema})


Title = Annotated[str, *_text(domain.Title, minLength=1, maxLength=domain.TITLE_MAX)]
Description = Annotated[str, *_text(domain.Description, maxLength=domain.DESCRIPTION_MAX)]
SearchText = Annotated[str, *_text(parse_search_text, maxLength=domain.TITLE_MAX)]
_PRIORITY: Final[JsonDict] = {"enum": [priority.value for priority in domain.Priority]}
Priority = Annotated[domain.Priority, *_text(parse_priority, **_PRIORITY)]
# "type" is repeated in each variant, because client generators need it there.
_DATE_OR_TIME: Final = [{"type": "string", "format": form} for form in ("date", "date-time")]
DueDate = Annotated[date | datetime, *_text(parse_due_date, anyOf=_DATE_OR_TIME)]
DueBound = Annotated[
    datetime,
    *_text(lambda text: domain.due_instant(parse_due_date(text)), anyOf=_DATE_OR_TIME),
]
SortOrder = Annotated[
    Sort, *_text(parse_sort, enum=[sign + by for by in SortBy for sign in ("", "-")])
]
Tag = Annotated[str, *_text(domain.Tag, minLength=1, maxLength=domain.TAG_MAX)]
Tags = Annotated[
    list[Tag],
    AfterValidator(domain.clean_tags),
    BeforeValidator(limit_tags),
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "items": {"type": "string", "minLength": 1, "maxLength": domain.TAG_MAX},
            "maxItems": domain.TAGS_MAX,
        }
    ),
]
Position = Annotated[
    str,
    *_text(
        domain.clean_position,
        pattern=f"^{domain.POSITION_FORM.pattern}$",
        minLength=1,
        maxLength=domain.POSITION_MAX,
    ),
    Field(description="A key of the order by hand: `sort=position` compares it byte by byte."),
]

# Requests may have either spelling, responses have the first.
_DUE_DATE_SPELLINGS: Final = Field(validation_alias=AliasChoices("due_date", "dueDate"))


def parse_client_id(value: object) -> UUID | None:
    """The id that a client chose, in its canonical form; None for anything else."""
    return UUID(value) if isinstance(value, str) and UUID_FORM.fullmatch(value) else None


ClientId = Annotated[
    UUID | None,
    PlainValidator(parse_client_id),
    WithJsonSchema({"examples": ["0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"]}),
    Field(
        description="A UUID that the client chose; repeating the request is then safe. Any other "
        "value is ignored, or 422 with `Prefer: handling=strict`."
    ),
]


def parse_id(text: str) -> UUID:
    """A task's id in its canonical form. Raises InvalidValue."""
    if not UUID_FORM.fullmatch(text):
        raise InvalidValue("bad_id", "must be a UUID")
    return UUID(text)


TaskId = Annotated[UUID, *_text(parse_id, format="uuid")]


@with_config(strict=True)
class NewTask(TypedDict, total=False):
    """A task to create. Read-only and unknown members are ignored."""

    id: ClientId
    title: Required[Title]
    description: Description | None
    completed: bool
    priority: Priority | None
    due_date: Annotated[DueDate | None, _DUE_DATE_SPELLINGS]
    tags: Tags
    position: Position | None


@with_config(strict=True)
class TaskChanges(TypedDict, total=False):
    """The members to change. `null` clears a member; an absent member keeps its value."""

    title: Title
    description: Description | None
    completed: bool
    priority: Priority | None
    due_date: Annotated[DueDate | None, _DUE_DATE_SPELLINGS]
    tags: Tags
    position: Position | None


@with_config(strict=True)
class Completion(TypedDict, total=False):
    """The completion to set. Without `completed` the task is toggled."""

    completed: bool


Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@with_config(title="Task")
class Task(TypedDict):
    """A stored task. Times are in UTC."""

    id: Id
    user_id: str
    title: str
    description: str | None
    completed: bool
    priority: Annotated[str, Field(json_schema_extra=_PRIORITY)] | None
    due_date: Annotated[str | None, Field(description="A date, or a date-time in UTC.")]
    tags: list[str]
    position: str | None
    created_at: Time
    updated_at: Time
    completed_at: Time | None
    version: int


class IdsQuery(BaseModel):
    """The query parameters that name tasks."""

    id: Annotated[
        list[TaskId],
        Field(min_length=1, max_length=OPERATIONS_MAX, description="A task. Repeat it for others."),
    ]


class FilterQuery(BaseModel):
    """The query parameters that filter tasks."""

    id: Annotated[
        list[TaskId],
        Field(max_length=OPERATIONS_MAX, description="Only this task. Repeat it for other tasks."),
    ] = []
    status: Annotated[
        Literal["all", "pending", "completed"] | None,
        Field(description="Which tasks. Overrides `completed`."),
    ] = None
    completed: Annotated[
        Literal["true", "false"] | None,
        Field(description="`true`: completed tasks. `false`: pending tasks."),
    ] = None
    priority: Priority | None = None
    tag: Annotated[
        list[Tag],
        Field(description="Only tasks with this tag. Repeat it for tasks with all the tags."),
    ] = []
    due_before: Annotated[DueBound | None, Field(description="Due before this time.")] = None
    due_after: Annotated[DueBound | None, Field(description="Due after this time.")] = None
    q: Annotated[
        SearchText | None,
        Field(description="Text in the title or description, in upper or lower case."),
    ] = None

    def filter(self) -> TaskFilter:
        """The domain's filter for these parameters."""
        return TaskFilter(
            completed=self._completed(),
            priority=self.priority,
            tags=tuple(self.tag),
            due_before=self.due_before,
            due_after=self.due_after,
            text=self.q or None,
            ids=frozenset(self.id) or None,
        )

    def _completed(self) -> bool | None:
        if self.status is not None:
            return None if self.status == "all" else self.status == "completed"
        return None if self.completed is None else self.completed == "true"


class ListQuery(FilterQuery):
    """The query parameters of a list."""

    sort: Annotated[
        SortOrder | None, Field(description="The field to sort by; with `-` in front: descending.")
    ] = None
    order: Annotated[
        Literal["asc", "desc"] | None,
        Field(description="The direction. Overrides the `-` of `sort`."),
    ] = None
    limit: Annotated[int | None, Field(ge=1, le=PAGE_MAX)] = None
    cursor: Annotated[
        str | None, Field(description="From the `Link` header of the previous page.")
    ] = None

    def sorting(self) -> Sort:
        """The domain's order for these parameters."""
        sort = self.sort or Sort()
        return sort if self.order is None else Sort(sort.by, descending=self.order == "desc")


class Changed(TypedDict):
    """How many tasks were changed, and which."""

    changed: int
    ids: list[Id]


class Deleted(TypedDict):
    """How many tasks were deleted, and which: each of them can be restored."""

    deleted: int
    ids: list[Id]


class Restored(TypedDict):
    """How many tasks were restored, and which."""

    restored: int
    ids: list[Id]
