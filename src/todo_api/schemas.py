"""The JSON representation of tasks and queries. The domain's validators check the values."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Required
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    PlainValidator,
    WithJsonSchema,
    with_config,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import core_schema
from typing_extensions import TypedDict

from todo_domain import repeat as domain_repeat
from todo_domain import task as domain
from todo_domain.batch import OPERATIONS_MAX
from todo_domain.errors import InvalidValue
from todo_domain.queries import PAGE_MAX, Sort, SortBy, TaskFilter
from todo_domain.repeat import EVERY_MAX, CountedFrom, Unit, Weekday, clean_time_zone

TAGS_SENT_MAX: Final = 100  # duplicates included, which the domain removes

UUID_FORM: Final = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE
)
_DUE_DATE: Final = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"(?P<time>[Tt ]\d\d:\d\d:(?P<second>\d\d)(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d))?",
    re.ASCII,
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
    return [] if empty_to_null(tags) is None else tags


def empty_to_null(value: object) -> object:
    """The value, None for the empty text that a form sends for an empty field."""
    return None if value == "" else value


def parse_search_text(text: str) -> str:
    """The text to search for, "" if it is blank. Raises InvalidValue."""
    try:
        return domain.Title(text)
    except InvalidValue as invalid:
        if invalid.code == "blank":
            return ""
        raise


_SORT_FIELDS: Final = {name.lower(): by for by in SortBy for name in (by, to_camel(by))}


def parse_sort(text: str) -> Sort:
    """The field to sort by, with ``-`` in front for descending. Raises InvalidValue."""
    by = _SORT_FIELDS.get(text.removeprefix("-").lower())
    if by is None:
        raise InvalidValue("unknown_value", f"must be one of {', '.join(SortBy)}")
    return Sort(by, descending=text.startswith("-"))


def parse_due_date(text: str) -> date | datetime:
    """An RFC 3339 full-date or date-time, truncated to microseconds. Raises InvalidValue."""
    match = _DUE_DATE.fullmatch(text)
    if match is None:
        raise InvalidValue("bad_date", "must be a date like 2026-01-31 or 2026-01-31T09:30:00Z")
    try:
        if match["time"] is None:
            return date.fromisoformat(text)
        if match["second"] == "60":
            start, end = match.span("second")
            return _after_leap_second(f"{text[:start]}59{text[end:]}")
        due = datetime.fromisoformat(text.upper())
    except (ValueError, OverflowError):
        raise InvalidValue("bad_date", "must be a date and time that exist") from None
    return domain.in_utc(due)


def _after_leap_second(before: str) -> datetime:
    """The time one second after ``before``, which must start a month in UTC.

    A leap second is the last second of a month in UTC (ITU-R TF.460). The months that have one are
    announced half a year ahead, so every month is accepted. Raises ValueError and OverflowError.
    """
    after = (datetime.fromisoformat(before.upper()) + timedelta(seconds=1)).astimezone(UTC)
    if (after.day, after.time().replace(microsecond=0)) != (1, time.min):
        raise ValueError(before)
    return after


def _text(parse: Callable[[str], object], **schema: object) -> tuple[Any, Any]:
    """A string that ``parse`` validates. ``schema`` describes what ``parse`` accepts.

    The type is checked as an instance of str, because Pydantic's own string validation refuses a
    lone surrogate before ``parse`` can.
    """
    text = core_schema.is_instance_schema(str, cls_repr="string")
    parsed = core_schema.no_info_after_validator_function(parse, text)
    return GetPydanticSchema(lambda *_: parsed), WithJsonSchema({"type": "string", **schema})


_NOT_BLANK: Final = r"\S"
Title = Annotated[
    str, *_text(domain.Title, minLength=1, maxLength=domain.TITLE_MAX, pattern=_NOT_BLANK)
]
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
_TAG: Final[JsonDict] = {"minLength": 1, "maxLength": domain.TAG_MAX, "pattern": _NOT_BLANK}
Tag = Annotated[str, *_text(domain.Tag, **_TAG)]
Tags = Annotated[
    list[Tag],
    AfterValidator(domain.clean_tags),
    BeforeValidator(limit_tags),
    WithJsonSchema(
        {
            "type": ["array", "null"],
            "items": {"type": "string", **_TAG},
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

# For the nullable members that a form may have as fields, except a description, which may be empty.
_EMPTY_TO_NULL: Final = BeforeValidator(empty_to_null)
# Requests may have either spelling, responses have the first.
_DUE_DATE_SPELLINGS: Final = Field(validation_alias=AliasChoices("due_date", "dueDate"))
_TIME_ZONE_SPELLINGS: Final = Field(validation_alias=AliasChoices("time_zone", "timeZone"))


def _one_of(values: type[StrEnum]) -> tuple[Any, Any]:
    """A string that is a value of the enumeration."""
    names = [value.value for value in values]

    def parse(text: str) -> StrEnum:
        try:
            return values(text)
        except ValueError:
            raise InvalidValue("unknown_value", f"must be one of {', '.join(names)}") from None

    return _text(parse, enum=names)


def parse_until(text: str) -> date:
    """A date without a time. Raises InvalidValue."""
    until = parse_due_date(text)
    if isinstance(until, datetime):
        raise InvalidValue("bad_date", "must be a date like 2026-01-31")
    return until


@with_config(strict=True, extra="forbid")
class Repeat(TypedDict, total=False):
    """The rule of a repeating task. Responses have every member."""

    every: Annotated[
        int, Field(ge=1, le=EVERY_MAX, description="Every so many units; 1 if absent.")
    ]
    unit: Required[Annotated[Unit, *_one_of(Unit)]]
    on: Annotated[
        list[Annotated[Weekday, *_one_of(Weekday)]],
        Field(max_length=len(Weekday), description="Days of the week, with the unit `week` only."),
    ]
    counted_from: Annotated[
        CountedFrom,
        *_one_of(CountedFrom),
        Field(
            alias="from",
            description="Count from the due date, if absent, or from the day of completion.",
        ),
    ]
    until: Annotated[
        Annotated[date, *_text(parse_until, format="date")] | None,
        Field(description="The last date on which a task can be due."),
    ]


def _parsed_repeat(_source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    return core_schema.no_info_after_validator_function(
        lambda members: domain_repeat.Repeat(**members), handler.generate_schema(Repeat)
    )


RepeatRule = Annotated[domain_repeat.Repeat, GetPydanticSchema(_parsed_repeat)]
TimeZone = Annotated[
    str,
    *_text(clean_time_zone, examples=["Europe/Paris"]),
    Field(
        description="An IANA time zone. A repeating task whose due date has a time must have one."
    ),
]


def parse_client_id(value: object) -> UUID | None:
    """The id that a client chose, in its canonical form; None for anything else."""
    return UUID(value) if isinstance(value, str) and UUID_FORM.fullmatch(value) else None


ClientId = Annotated[
    UUID | None,
    PlainValidator(parse_client_id),
    WithJsonSchema(
        {
            "type": "string",
            "format": "uuid",
            "examples": ["0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"],
        }
    ),
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
class NewMembers(TypedDict, total=False):
    """The members of a new task, except for its id."""

    title: Required[Title]
    description: Description | None
    completed: bool
    priority: Annotated[Priority | None, _EMPTY_TO_NULL]
    due_date: Annotated[DueDate | None, _EMPTY_TO_NULL, _DUE_DATE_SPELLINGS]
    tags: Tags
    position: Position | None
    repeat: RepeatRule | None
    time_zone: Annotated[TimeZone | None, _TIME_ZONE_SPELLINGS]


@with_config(strict=True)
class TaskChanges(TypedDict, total=False):
    """The members to change. `null` clears a member; an absent member keeps its value."""

    title: Title
    description: Description | None
    completed: bool
    priority: Annotated[Priority | None, _EMPTY_TO_NULL]
    due_date: Annotated[DueDate | None, _EMPTY_TO_NULL, _DUE_DATE_SPELLINGS]
    tags: Tags
    position: Position | None
    repeat: RepeatRule | None
    time_zone: Annotated[TimeZone | None, _TIME_ZONE_SPELLINGS]


@with_config(strict=True)
class NewTask(NewMembers, total=False):
    """A task to create. Read-only and unknown members are ignored."""

    id: ClientId


def parse_past_time(text: str) -> datetime:
    """A time since 1970 in UTC. Raises InvalidValue."""
    moment = parse_due_date(text)
    if not isinstance(moment, datetime):
        raise InvalidValue("bad_date", "must be a date and time like 2026-01-31T09:30:00Z")
    if moment < _EPOCH:
        raise InvalidValue("out_of_range", "must be 1970-01-01T00:00:00Z or later")
    return moment


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
PastTime = Annotated[datetime, *_text(parse_past_time, format="date-time")]


@with_config(strict=True)
class ImportedTask(NewMembers, total=False):
    """A task of an export. The other members of a task are ignored."""

    id: Required[TaskId]
    created_at: PastTime
    updated_at: PastTime
    completed_at: PastTime | None
    deleted_at: Annotated[
        PastTime | None, Field(description="When the task was deleted; null for a live task.")
    ]


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
    repeat: Repeat | None
    time_zone: str | None
    created_at: Time
    updated_at: Time
    completed_at: Time | None
    version: int


@with_config(title="ChangedTask")
class ChangedTask(Task, total=False):
    """A task after a change."""

    next: Annotated[
        Task,
        Field(description="The next task, if the change completes a repeating task."),
    ]


@with_config(title="ExportedTask")
class ExportedTask(Task):
    """A stored task, and when it was deleted if it is."""

    deleted_at: Time | None


def _words(synonyms: Mapping[str, str | None]) -> BeforeValidator:
    """Reads a word in upper or lower case, or one of its synonyms. None: no filter."""

    def canonical(word: str) -> str | None:
        return synonyms.get(word.lower(), word.lower())

    return BeforeValidator(lambda value: canonical(value) if isinstance(value, str) else value)


_STATUS_WORDS: Final = {
    **dict.fromkeys(("active", "incomplete", "open", "todo"), "pending"),
    **dict.fromkeys(("done", "complete"), "completed"),
}


class IdsQuery(BaseModel):
    """The query parameters that name tasks."""

    id: Annotated[
        list[TaskId],
        Field(min_length=1, max_length=OPERATIONS_MAX, description="A task. Repeat it for others."),
    ]


class FilterQuery(BaseModel):
    """The query parameters that filter tasks. The aliases are names that other APIs use."""

    id: Annotated[
        list[TaskId],
        Field(max_length=OPERATIONS_MAX, description="Only this task. Repeat it for other tasks."),
    ] = []
    status: Annotated[
        Literal["all", "pending", "completed"] | None,
        _words(_STATUS_WORDS),
        Field(
            description="Which tasks. Overrides `completed`.",
            validation_alias=AliasChoices("status", "filter"),
        ),
    ] = None
    completed: Annotated[
        Annotated[Literal["true", "false"], WithJsonSchema({"type": "boolean"})] | None,
        _words({"all": None}),
        Field(
            description="`true`: completed tasks. `false`: pending tasks.",
            validation_alias=AliasChoices("completed", "is_completed", "done"),
        ),
    ] = None
    priority: Annotated[
        Priority | None, _words({"all": None}), Field(description="Only tasks with this priority.")
    ] = None
    tag: Annotated[
        list[Tag],
        Field(
            description="Only tasks with this tag. Repeat it for tasks with all the tags.",
            validation_alias=AliasChoices("tag", "tags"),
        ),
    ] = []
    due_before: Annotated[
        DueBound | None,
        Field(
            description="Due before this time.",
            validation_alias=AliasChoices("due_before", "due_date_before"),
        ),
    ] = None
    due_after: Annotated[
        DueBound | None,
        Field(
            description="Due after this time.",
            validation_alias=AliasChoices("due_after", "due_date_after"),
        ),
    ] = None
    q: Annotated[
        SearchText | None,
        Field(
            description="Text in the title or description, in upper or lower case.",
            validation_alias=AliasChoices("q", "search", "query", "keyword"),
        ),
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
        SortOrder | None,
        Field(
            description="The field to sort by; with `-` in front: descending.",
            validation_alias=AliasChoices("sort", "sort_by", "order_by"),
        ),
    ] = None
    order: Annotated[
        Literal["asc", "desc"] | None,
        _words({}),
        Field(
            description="The direction. Overrides the `-` of `sort`.",
            validation_alias=AliasChoices("order", "sort_order", "sort_dir", "sort_direction"),
        ),
    ] = None
    limit: Annotated[
        int | None, Field(ge=1, le=PAGE_MAX, description="The most tasks of a page.")
    ] = None
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
