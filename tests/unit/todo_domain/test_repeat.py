"""The calendar of repeating tasks: the tables of ``docs/repeating.md``, and any other rule."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from support.tasks import NOW, a_task
from todo_domain.errors import InvalidValue
from todo_domain.repeat import (
    EVERY_MAX,
    CountedFrom,
    Repeat,
    Unit,
    Weekday,
    clean_time_zone,
    local_time,
    next_due,
)
from todo_domain.task import Task

PAGE: Final = (Path(__file__).parents[3] / "docs" / "repeating.md").read_text()
DEFAULTS: Final = {"every": 1, "on": [], "from": "due", "until": None}

# With and without daylight saving, in both hemispheres; changes of 30 minutes, at midnight, and
# of a whole day; offsets that are no whole hours.
ZONES: Final = (
    *("Africa/Cairo", "Africa/Casablanca", "America/Havana", "America/New_York", "America/Nuuk"),
    *("America/Santiago", "America/Sao_Paulo", "America/St_Johns", "Antarctica/Troll"),
    *("Asia/Beirut", "Asia/Gaza", "Asia/Kathmandu", "Asia/Tehran", "Asia/Tokyo"),
    *("Australia/Lord_Howe", "Europe/Berlin", "Europe/Dublin", "Pacific/Apia"),
    *("Pacific/Chatham", "UTC"),
)


def rows(columns: int) -> list[list[str]]:
    """The code in each cell of the tables that have a rule and this number of columns."""
    lines = [line for line in PAGE.splitlines() if line.startswith('| `{"every"')]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns]


def rule(text: str) -> Repeat:
    return Repeat.of(DEFAULTS | json.loads(text.strip("`")))


def parsed(text: str) -> date | datetime:
    text = text.strip("`")
    return datetime.fromisoformat(text).astimezone(UTC) if "T" in text else date.fromisoformat(text)


def listed(cell: str) -> list[date | datetime | None]:
    return [None if text == "end" else parsed(text) for text in cell.split()]


def midday(due: date | datetime) -> datetime:
    """When a task is completed on its due date."""
    return due if isinstance(due, datetime) else datetime.combine(due, time(12), UTC)


def series(task: Task, length: int = 20) -> Iterator[Task]:
    """The task and its successors, each completed on its due date."""
    for _ in range(length):
        yield task
        assert task.due_date is not None
        successor = task.changed(midday(task.due_date), completed=True).successor()
        if successor is None:
            return
        task = successor


class TestDocumentedCalendar:
    @pytest.mark.parametrize("row", rows(4), ids=" ".join)
    def test_of_tasks_completed_on_their_due_dates(self, row: list[str]) -> None:
        repeat, zone, first, then = row
        task = a_task(
            due_date=parsed(first), repeat=rule(repeat), time_zone=zone.strip("`") or None
        )
        expected = listed(then)
        dates = [each.due_date for each in series(task, len(expected) + 1)][1:]
        assert dates == [due for due in expected if due is not None]
        assert all(type(due) is type(task.due_date) for due in dates)

    @pytest.mark.parametrize("row", rows(5), ids=" ".join)
    def test_of_a_task_completed_early_or_late(self, row: list[str]) -> None:
        repeat, zone, due, completed, then = row
        completed_at = parsed(completed)
        assert isinstance(completed_at, datetime)
        found = next_due(rule(repeat), parsed(due), completed_at, time_zone=zone.strip("`") or None)
        assert [found] == listed(then)

    def test_has_every_unit_and_both_origins(self) -> None:
        rules = [rule(row[0]) for row in rows(4) + rows(5)]
        assert {each.unit for each in rules} == set(Unit)
        assert {each.counted_from for each in rules} == set(CountedFrom)


dates: Final = st.dates(date(1970, 1, 1), date(2100, 1, 1))
times: Final = st.times().map(lambda value: value.replace(second=0, microsecond=0))
zones: Final = st.sampled_from(ZONES)
everies: Final = st.integers(1, 40) | st.integers(1, EVERY_MAX)
weekdays: Final = st.sets(st.sampled_from(Weekday)).map(tuple)
rules: Final = st.builds(
    lambda unit, every, on: Repeat(unit, every, on if unit is Unit.WEEK else ()),
    st.sampled_from(Unit),
    everies,
    weekdays,
)
short_steps: Final = st.sampled_from([Repeat(Unit.DAY, every) for every in (1, 2, 5)])
delays: Final = st.timedeltas(timedelta(days=-400), timedelta(days=400))


@st.composite
def repeating_tasks(draw: st.DrawFn) -> Task:
    """A task with any rule, with or without a time."""
    zone = draw(st.none() | zones)
    day = draw(dates)
    due: date | datetime = day
    if zone is not None:
        due = datetime.combine(day, draw(times), ZoneInfo(zone)).astimezone(UTC)
    return a_task(due_date=due, repeat=draw(rules), time_zone=zone)


def exists(local: datetime, zone: str) -> bool:
    """Whether clocks in the zone have shown this time."""
    return local_time(local.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC), zone) == local


class TestDaylightSaving:
    @given(dates, times, zones, short_steps)
    def test_never_moves_the_time_of_day_of_later_tasks(
        self, day: date, at: time, zone: str, repeat: Repeat
    ) -> None:
        start = datetime.combine(day, at)
        assume(exists(start, zone))
        due = start.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        task = a_task(due_date=due, repeat=repeat, time_zone=zone)
        for number, each in enumerate(series(task, 100)):
            wanted = start + number * timedelta(days=repeat.every)
            assert each.due_date is not None
            if exists(wanted, zone):
                assert local_time(each.due_date, zone) == wanted
            elif zone != "Pacific/Apia":  # which has had no 30 December 2011
                shift = local_time(each.due_date, zone) - wanted
                assert timedelta(0) < shift <= timedelta(hours=2)


class TestSeries:
    @given(repeating_tasks())
    def test_has_later_and_later_due_dates(self, task: Task) -> None:
        for earlier, later in pairwise(midday(each.due_date or NOW) for each in series(task)):
            assert earlier < later

    @given(dates, st.sampled_from((Unit.MONTH, Unit.YEAR)), everies)
    def test_of_months_keeps_the_day_or_has_the_last_day_of_a_shorter_month(
        self, day: date, unit: Unit, every: int
    ) -> None:
        task = a_task(due_date=day, repeat=Repeat(unit, every))
        months = every * (12 if unit is Unit.YEAR else 1)
        for number, each in enumerate(series(task, 30)):
            due = each.due_date
            assert due is not None
            assert due.year * 12 + due.month == day.year * 12 + day.month + number * months
            is_last = (due + timedelta(days=1)).day == 1
            assert due.day == day.day or (due.day < day.day and is_last)

    @given(dates, everies, weekdays.filter(bool))
    def test_of_weekdays_has_only_these_days_in_each_counted_week(
        self, day: date, every: int, on: tuple[Weekday, ...]
    ) -> None:
        monday = day - timedelta(day.weekday())
        task = a_task(due_date=day, repeat=Repeat(Unit.WEEK, every, on))
        found = [each.due_date for each in series(task, 20)][1:]
        wanted = (
            monday + timedelta(7 * every * week + number)
            for week in range(30)
            for number, weekday in enumerate(Weekday)
            if weekday in on
        )
        assert found == [due for due in wanted if due > day][: len(found)]

    @given(repeating_tasks(), delays)
    def test_continues_with_the_first_due_date_that_has_not_passed(
        self, task: Task, delay: timedelta
    ) -> None:
        assert task.due_date is not None
        completed_at = midday(task.due_date) + delay
        successor = task.changed(completed_at, completed=True).successor()
        assert successor is not None
        on_time = [each.due_date for each in series(task, 500 if delay.days > 0 else 2)][1:]
        today = local_time(completed_at, task.time_zone).date()
        passed = today if not isinstance(task.due_date, datetime) else completed_at
        assert successor.due_date == next(due for due in on_time if due and due >= passed)

    @given(repeating_tasks(), dates)
    def test_has_no_due_date_after_until(self, task: Task, until: date) -> None:
        assert task.repeat is not None
        endless = [each.due_date for each in series(task)]
        ending = replace(task, repeat=replace(task.repeat, until=until))
        found = [each.due_date for each in series(ending)]
        assert found == endless[: len(found)]
        for due in found[1:]:
            assert due is not None
            assert local_time(due, task.time_zone).date() <= until + timedelta(days=1)

    @given(repeating_tasks(), delays)
    def test_counted_from_completion_is_later_than_the_day_of_completion(
        self, task: Task, delay: timedelta
    ) -> None:
        assert task.due_date is not None
        assert task.repeat is not None
        repeat = replace(task.repeat, counted_from=CountedFrom.COMPLETION)
        completed_at = midday(task.due_date) + delay
        found = next_due(repeat, task.due_date, completed_at, time_zone=task.time_zone)
        assert found is not None
        assert (
            local_time(found, task.time_zone).date()
            > local_time(completed_at, task.time_zone).date()
        )

    @pytest.mark.parametrize("unit", Unit)
    @pytest.mark.parametrize("zone", [None, "Pacific/Kiritimati", "Pacific/Pago_Pago"])
    def test_ends_with_the_last_year(self, unit: Unit, zone: str | None) -> None:
        due = date.max if zone is None else datetime.max.replace(tzinfo=UTC)
        assert next_due(Repeat(unit, EVERY_MAX), due, NOW, time_zone=zone) is None


class TestRule:
    @pytest.mark.parametrize("every", [-1, 0, EVERY_MAX + 1])
    def test_with_another_interval_is_invalid(self, every: int) -> None:
        with pytest.raises(InvalidValue) as caught:
            Repeat(Unit.DAY, every)
        assert (caught.value.code, caught.value.path) == ("out_of_range", ("every",))

    @pytest.mark.parametrize("unit", [Unit.DAY, Unit.MONTH, Unit.YEAR])
    def test_with_weekdays_and_another_unit_is_invalid(self, unit: Unit) -> None:
        with pytest.raises(InvalidValue) as caught:
            Repeat(unit, on=(Weekday.MON,))
        assert (caught.value.code, caught.value.path) == ("not_allowed", ("on",))

    def test_has_each_weekday_once_and_in_order(self) -> None:
        rule = Repeat(Unit.WEEK, on=(Weekday.SUN, Weekday.MON, Weekday.SUN))
        assert rule.on == (Weekday.MON, Weekday.SUN)

    @given(rules, st.none() | dates, st.sampled_from(CountedFrom))
    def test_is_made_of_its_members(
        self, repeat: Repeat, until: date | None, counted_from: CountedFrom
    ) -> None:
        repeat = replace(repeat, until=until, counted_from=counted_from)
        assert Repeat.of(json.loads(json.dumps(repeat.members))) == repeat


class TestTimeZone:
    @pytest.mark.parametrize("name", ["UTC", "Europe/Paris", "America/Argentina/Ushuaia"])
    def test_of_the_iana_database_is_kept(self, name: str) -> None:
        assert clean_time_zone(name) == name

    @pytest.mark.parametrize(
        "name",
        [
            *("", "europe/paris", "Paris", "+02:00", "localtime", "Factory", "posixrules"),
            *("../../etc/passwd", "/etc/localtime", "Europe", "posix/UTC", "right/UTC"),
            *("UTC\0", "\ud800", "x" * 10_000),
        ],
    )
    def test_of_another_name_is_invalid(self, name: str) -> None:
        with pytest.raises(InvalidValue, match="IANA"):
            clean_time_zone(name)
