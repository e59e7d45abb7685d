"""The formats of an export: JSON with everything, iCalendar and CSV for other programs.

Each format is written page by page, so that an export of any size needs the memory of one page.
"""

import csv
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from io import StringIO
from typing import Final

from todo_api.http.responses import format_time, serialize_task, to_json, utc
from todo_api.schemas import ExportedTask
from todo_domain.batch import StoredTask
from todo_domain.task import Priority, Task
from todo_domain.user_data import UserData

FOLD_AT: Final = 75  # octets of a line of iCalendar (RFC 5545, section 3.1)

Encode = Callable[[str, UserData, datetime], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format: its media type, the extension of a file, and how the data of a user is encoded."""

    media_type: str
    extension: str
    encode: Encode


def serialize_stored(stored: StoredTask) -> dict[str, object]:
    """The members of ``schemas.ExportedTask``, with values for ``to_json``."""
    deleted_at = stored.deleted_at and format_time(stored.deleted_at)
    return {**serialize_task(stored.task), "deleted_at": deleted_at}


# --- JSON -----------------------------------------------------------------------------------------


async def _to_json(owner: str, data: UserData, now: datetime) -> AsyncIterator[bytes]:
    user = {
        "id": owner,
        "first_seen_at": data.user and format_time(data.user.first_seen_at),
        "last_seen_at": data.user and format_time(data.user.last_seen_at),
    }
    head = to_json({"user": user, "exported_at": utc(now)})
    yield head[:-1] + b',"tasks":['
    separator = b""
    async for page in data.pages:
        if page:
            yield separator + b",\n".join(to_json(serialize_stored(each)) for each in page)
            separator = b",\n"
    yield b"]}\n"


# --- CSV ------------------------------------------------------------------------------------------

_COLUMNS: Final = tuple(name for name in ExportedTask.__annotations__ if name != "user_id")
# Spreadsheets run a cell that starts with one of these characters as a formula (OWASP, "CSV
# Injection"); the last four are full-width forms.
_FORMULA_STARTS: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_BYTE_ORDER_MARK: Final = "\ufeff"  # without it, Excel reads UTF-8 as the system's old encoding


async def _to_csv(_owner: str, data: UserData, _now: datetime) -> AsyncIterator[bytes]:
    yield (_BYTE_ORDER_MARK + _csv([_COLUMNS])).encode()
    async for page in data.pages:
        yield _csv(map(_row, page)).encode()


def _csv(rows: Iterable[Iterable[str]]) -> str:
    text = StringIO()
    csv.writer(text).writerows(rows)  # with CRLF, as RFC 4180 has it
    return text.getvalue()


def _row(stored: StoredTask) -> list[str]:
    members = serialize_stored(stored)
    return [_cell(members[name]) for name in _COLUMNS]


def _cell(value: object) -> str:
    """The text of a cell. A text that a spreadsheet would run gets an apostrophe in front."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return utc(value)
        case list() | tuple():
            text = ", ".join(map(str, value))
        case dict():
            text = to_json(value).decode()
        case _:
            text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


# --- iCalendar ------------------------------------------------------------------------------------

_PRIORITIES: Final = {Priority.HIGH: "1", Priority.MEDIUM: "5", Priority.LOW: "9"}
_ESCAPED: Final = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})
_LINE_BREAK: Final = re.compile(r"\r\n?")
# A text must not contain them (RFC 5545, section 3.1, CONTROL).
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CONTINUATIONS: Final = range(0x80, 0xC0)  # octets of UTF-8 that do not start a character


async def _to_icalendar(_owner: str, data: UserData, _now: datetime) -> AsyncIterator[bytes]:
    yield b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//todo-api//todo-api//EN\r\n"
    async for page in data.pages:
        yield b"".join(_folded(line) for stored in page for line in _todo(stored))
    yield b"END:VCALENDAR\r\n"


def _todo(stored: StoredTask) -> Iterator[str]:
    """The lines of a task. A deleted task is a cancelled one."""
    task = stored.task
    yield "BEGIN:VTODO"
    yield f"UID:{task.id}"
    yield f"DTSTAMP:{_instant(task.updated_at)}"
    yield f"CREATED:{_instant(task.created_at)}"
    yield f"LAST-MODIFIED:{_instant(task.updated_at)}"
    yield f"SUMMARY:{_text(task.title)}"
    yield f"STATUS:{_status(stored)}"
    yield from _optional_properties(task)
    yield "END:VTODO"


def _optional_properties(task: Task) -> Iterator[str]:
    if task.description:
        yield f"DESCRIPTION:{_text(task.description)}"
    if isinstance(task.due_date, datetime):
        yield f"DUE:{_instant(task.due_date)}"
    elif task.due_date is not None:
        yield f"DUE;VALUE=DATE:{_day(task.due_date)}"
    if task.priority is not None:
        yield f"PRIORITY:{_PRIORITIES[task.priority]}"
    if task.tags:
        yield f"CATEGORIES:{','.join(map(_text, task.tags))}"
    if task.completed_at is not None:
        yield f"COMPLETED:{_instant(task.completed_at)}"


def _status(stored: StoredTask) -> str:
    if stored.deleted_at is not None:
        return "CANCELLED"
    return "COMPLETED" if stored.task.completed else "NEEDS-ACTION"


def _instant(moment: datetime) -> str:
    return f"{_day(moment)}T{moment:%H%M%S}Z"


def _day(day: date) -> str:
    # strftime does not pad years before 1000 on every platform.
    return f"{day.year:04}{day.month:02}{day.day:02}"


def _text(text: str) -> str:
    """The text as a value (RFC 5545, section 3.3.11), with line breaks and without controls."""
    lines = _LINE_BREAK.sub("\n", text)
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", lines).translate(_ESCAPED)


def _folded(line: str) -> bytes:
    """The line, folded so that no part has more than 75 octets or ends within a character."""
    octets = line.encode()
    parts, start, size = [], 0, FOLD_AT
    while len(octets) - start > size:
        end = start + size
        while octets[end] in _CONTINUATIONS:
            end -= 1
        parts.append(octets[start:end])
        start, size = end, FOLD_AT - 1  # the space in front counts
    return b"\r\n ".join((*parts, octets[start:])) + b"\r\n"


# --------------------------------------------------------------------------------------------------

JSON: Final = ExportFormat("application/json", "json", _to_json)
ICALENDAR: Final = ExportFormat("text/calendar", "ics", _to_icalendar)
CSV: Final = ExportFormat("text/csv", "csv", _to_csv)
FORMATS: Final = (JSON, ICALENDAR, CSV)
