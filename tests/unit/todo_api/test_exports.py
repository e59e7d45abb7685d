"""iCalendar by RFC 5545 and CSV by RFC 4180, without formulas."""

import csv
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from typing import Final

import pytest

from support.tasks import HOSTILE_TEXTS, LATER, NOW, a_task
from todo_api.exports import CSV, FOLD_AT, ICALENDAR, JSON, ExportFormat
from todo_domain.batch import StoredTask
from todo_domain.task import Priority, Task
from todo_domain.user_data import UserData, UserRecord

FULL: Final = a_task(
    title="Buy milk",
    description="2 litres",
    priority=Priority.HIGH,
    due_date=datetime(2026, 1, 20, 8, 5, tzinfo=UTC),
    tags=("home", "food"),
    updated_at=LATER,
    completed_at=LATER,
)


async def encoded(form: ExportFormat, *pages: Iterable[StoredTask]) -> str:
    async def given() -> AsyncIterator[tuple[StoredTask, ...]]:
        for page in pages:
            yield tuple(page)

    data = UserData(UserRecord(NOW, LATER), given())
    return b"".join([chunk async for chunk in form.encode("ada", data, LATER)]).decode()


async def todo(task: Task, deleted_at: datetime | None = None) -> list[str]:
    """The lines of the task in iCalendar, unfolded."""
    text = await encoded(ICALENDAR, [StoredTask(task, deleted_at)])
    lines = text.replace("\r\n ", "").split("\r\n")
    return lines[lines.index("BEGIN:VTODO") + 1 : lines.index("END:VTODO")]


async def row(task: Task) -> dict[str, str]:
    text = await encoded(CSV, [StoredTask(task)])
    (found,) = csv.DictReader(StringIO(text.removeprefix("\ufeff"), newline=""))
    return found


class TestPages:
    @pytest.mark.parametrize("form", [JSON, ICALENDAR, CSV], ids=lambda form: form.extension)
    async def test_the_division_into_pages_is_invisible(self, form: ExportFormat) -> None:
        tasks = [StoredTask(a_task(title=str(number))) for number in range(4)]
        whole = await encoded(form, tasks)
        assert await encoded(form, tasks[:1], tasks[1:3], tasks[3:]) == whole
        assert whole != await encoded(form, tasks[:3])


class TestICalendar:
    async def test_a_task_has_all_its_properties(self) -> None:
        assert await todo(FULL) == [
            f"UID:{FULL.id}",
            "DTSTAMP:20260118T093100Z",
            "CREATED:20260118T093000Z",
            "LAST-MODIFIED:20260118T093100Z",
            "SUMMARY:Buy milk",
            "STATUS:COMPLETED",
            "DESCRIPTION:2 litres",
            "DUE:20260120T080500Z",
            "PRIORITY:1",
            "CATEGORIES:home,food",
            "COMPLETED:20260118T093100Z",
        ]

    async def test_members_that_are_not_set_have_no_property(self) -> None:
        names = [line.partition(":")[0] for line in await todo(a_task())]
        assert names == ["UID", "DTSTAMP", "CREATED", "LAST-MODIFIED", "SUMMARY", "STATUS"]

    async def test_the_calendar_has_a_version_and_a_product(self) -> None:
        lines = (await encoded(ICALENDAR, [StoredTask(FULL)])).split("\r\n")
        assert lines[:2] == ["BEGIN:VCALENDAR", "VERSION:2.0"]
        assert lines[2].startswith("PRODID:-//")

    @pytest.mark.parametrize(
        ("due", "expected"),
        [
            (date(2026, 1, 20), "DUE;VALUE=DATE:20260120"),
            (date(1, 1, 1), "DUE;VALUE=DATE:00010101"),
            (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "DUE:99991231T235959Z"),
        ],
    )
    async def test_a_due_date_is_a_date_or_an_instant_in_utc(
        self, due: date, expected: str
    ) -> None:
        assert expected in await todo(a_task(due_date=due))

    @pytest.mark.parametrize(
        ("priority", "number"), [(Priority.HIGH, 1), (Priority.MEDIUM, 5), (Priority.LOW, 9)]
    )
    async def test_priorities_are_1_5_and_9(self, priority: Priority, number: int) -> None:
        assert f"PRIORITY:{number}" in await todo(a_task(priority=priority))

    async def test_a_task_is_pending_completed_or_cancelled(self) -> None:
        assert "STATUS:NEEDS-ACTION" in await todo(a_task())
        assert "STATUS:COMPLETED" in await todo(FULL)
        assert "STATUS:CANCELLED" in await todo(FULL, deleted_at=LATER)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a;b,c\\d:e", "a\\;b\\,c\\\\d:e"),
            ("1\n2\r\n3\r4", "1\\n2\\n3\\n4"),
            ("END:VTODO\r\nBEGIN:VALARM", "END:VTODO\\nBEGIN:VALARM"),
            ('"quoted"\t<b>', '"quoted"\t<b>'),
            ("\x01\x7f\x0b", "\ufffd\ufffd\ufffd"),
        ],
    )
    async def test_text_is_escaped(self, text: str, value: str) -> None:
        lines = await todo(a_task(title=text, description=text, tags=("x", text)))
        assert f"SUMMARY:{value}" in lines
        assert f"DESCRIPTION:{value}" in lines
        assert f"CATEGORIES:x,{value}" in lines

    @pytest.mark.parametrize("text", ["x" * 67, "x" * 68, "é" * 200, "👩" * 200, "aé👩" * 60])
    async def test_folding_loses_nothing(self, text: str) -> None:
        assert f"SUMMARY:{text}" in await todo(a_task(title=text))

    @pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "é" * 200, "👩" * 200, "aé👩" * 60])
    async def test_no_line_has_more_than_75_octets(self, text: str) -> None:
        task = a_task(title=text, description=text * 9, tags=(text, text))
        lines = (await encoded(ICALENDAR, [StoredTask(task)])).split("\r\n")
        assert max(len(line.encode()) for line in lines) <= FOLD_AT

    async def test_a_line_of_75_octets_is_not_folded(self) -> None:
        line = "SUMMARY:" + "x" * (FOLD_AT - len("SUMMARY:"))
        text = await encoded(ICALENDAR, [StoredTask(a_task(title=line.removeprefix("SUMMARY:")))])
        assert f"\r\n{line}\r\n" in text


class TestCsv:
    async def test_a_task_has_a_cell_for_each_member(self) -> None:
        assert await row(replace(FULL, due_date=date(2026, 1, 20))) == {
            "id": str(FULL.id),
            "title": "Buy milk",
            "description": "2 litres",
            "completed": "true",
            "priority": "high",
            "due_date": "2026-01-20",
            "tags": "home, food",
            "position": "",
            "repeat": "",
            "time_zone": "",
            "created_at": "2026-01-18T09:30:00.000000Z",
            "updated_at": "2026-01-18T09:31:00.000000Z",
            "completed_at": "2026-01-18T09:31:00.000000Z",
            "version": "1",
            "deleted_at": "",
        }

    async def test_an_instant_with_a_fraction_has_the_form_of_others(self) -> None:
        cells = await row(a_task(created_at=NOW + timedelta(microseconds=1)))
        assert cells["created_at"] == "2026-01-18T09:30:00.000001Z"

    @pytest.mark.parametrize("start", [*"=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"])
    async def test_a_cell_that_would_be_a_formula_gets_an_apostrophe(self, start: str) -> None:
        formula = f'{start}HYPERLINK("http://evil.example")'
        cells = await row(a_task(title=formula, description=formula, tags=(formula,)))
        assert [cells[name] for name in ("title", "description", "tags")] == [f"'{formula}"] * 3

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_other_text_is_as_it_was(self, text: str) -> None:
        cells = await row(a_task(title=text, description=f"{text}, and \n more"))
        assert cells["title"] == text
        assert cells["description"] == f"{text}, and \n more"

    async def test_lines_end_with_crlf_after_a_byte_order_mark(self) -> None:
        text = await encoded(CSV, [StoredTask(FULL)])
        assert text.startswith("\ufeffid,title,")
        assert [line.count("\n") for line in text.split("\r\n")] == [0, 0, 0]
