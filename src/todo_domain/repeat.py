"""Repeating tasks: the rule of a series, and when its next task is due.

A series is computed in local dates and local times of day, so that daylight saving does not move
it. ``docs/repeating.md`` has the calendar of each rule.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from todo_domain.errors import InvalidValue

EVERY_MAX: Final = 366


class Unit(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Weekday(StrEnum):
    """A day of the week. Weeks begin on Monday."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


class CountedFrom(StrEnum):
    """From when the next due date is counted."""

    DUE = "due"
    COMPLETION = "completion"


_NUMBERS: Final = {weekday: number for number, weekday in enumerate(Weekday)}
_MONTHS: Final = {Unit.MONTH: 1, Unit.YEAR: 12}
_DAYS: Final = {Unit.DAY: 1, Unit.WEEK: 7}


@dataclass(frozen=True, slots=True)
class Repeat:
    """The rule of a series: every so many days, weeks, months or years.

    ``on``: the days of each such week. ``until``: the last day on which a task can be due. Raises
    InvalidValue, with the member in its ``path``.
    """

    unit: Unit
    every: int = 1
    on: tuple[Weekday, ...] = ()
    counted_from: CountedFrom = CountedFrom.DUE
    until: date | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.every <= EVERY_MAX:
            raise InvalidValue("out_of_range", f"must be 1 to {EVERY_MAX}", "every")
        if self.on and self.unit is not Unit.WEEK:
            raise InvalidValue("not_allowed", "is only allowed with the unit week", "on")
        object.__setattr__(self, "on", tuple(sorted(set(self.on), key=_NUMBERS.__getitem__)))

    @classmethod
    def of(cls, members: dict[str, Any]) -> "Repeat":
        """The rule with these ``members``. Raises InvalidValue."""
        until = members["until"]
        return cls(
            Unit(members["unit"]),
            members["every"],
            tuple(map(Weekday, members["on"])),
            CountedFrom(members["from"]),
            until and date.fromisoformat(until),
        )

    @property
    def members(self) -> dict[str, Any]:
        """The rule as plain values, with the names that clients use."""
        return {
            "every": self.every,
            "unit": self.unit.value,
            "on": [weekday.value for weekday in self.on],
            "from": self.counted_from.value,
            "until": self.until and self.until.isoformat(),
        }


@cache
def _time_zones() -> frozenset[str]:
    """The names of the IANA time zone database, without those that depend on the machine."""
    return frozenset(available_timezones() - {"Factory", "localtime"})


def clean_time_zone(name: str) -> str:
    """The name of an IANA time zone, as it is. Raises InvalidValue."""
    if name not in _time_zones():
        raise InvalidValue("unknown_time_zone", "must be an IANA time zone like Europe/Paris")
    return name


def local_time(due: date | datetime, time_zone: str | None) -> datetime:
    """The date and time of a due date in the time zone, without an offset; a date's midnight.

    Raises OverflowError outside the years 1 to 9999.
    """
    if isinstance(due, datetime):
        return due.astimezone(_zone(time_zone)).replace(tzinfo=None)
    return datetime.combine(due, time.min)


def next_due(
    repeat: Repeat,
    due: date | datetime,
    completed_at: datetime,
    *,
    time_zone: str | None = None,
    anchor: datetime | None = None,
) -> date | datetime | None:
    """When the task after a completed one is due; None if the series ends.

    ``anchor`` is the local time at which the first task of the series was due. Counting from it
    keeps the day of the month and the time of day that a short month or daylight saving has moved.
    """
    try:
        start = anchor or local_time(due, time_zone)
        today = completed_at.astimezone(_zone(time_zone)).date()
        if repeat.counted_from is CountedFrom.COMPLETION:
            day = _day_after(repeat, today, today)
        else:
            day = _next_day(repeat, due, completed_at, time_zone, start)
        if repeat.until is not None and day > repeat.until:
            return None
        return _due_on(day, due, start, time_zone)
    except (OverflowError, ValueError):  # after the year 9999
        return None


def _next_day(
    repeat: Repeat,
    due: date | datetime,
    completed_at: datetime,
    time_zone: str | None,
    start: datetime,
) -> date:
    """The first day of the series that is after the due date and has not passed."""
    today = completed_at.astimezone(_zone(time_zone)).date()
    earliest = completed_at if isinstance(due, datetime) else today
    # Starts a day earlier, because daylight saving can move a time past midnight.
    day = _day_after(
        repeat, start.date(), max(local_time(due, time_zone).date(), today) - timedelta(days=1)
    )
    while (found := _due_on(day, due, start, time_zone)) <= due or found < earliest:
        day = _day_after(repeat, start.date(), day)
    return day


def _due_on(day: date, due: date | datetime, start: datetime, time_zone: str | None) -> date:
    """The due date on this day: a date, or the start's time of day in UTC.

    A time that daylight saving skips is as much later; of a time that it repeats the first counts.
    """
    if not isinstance(due, datetime):
        return day
    return datetime.combine(day, start.time(), _zone(time_zone)).astimezone(UTC)


def _day_after(repeat: Repeat, start: date, after: date) -> date:
    """The first day later than ``after`` on which the rule falls, if it is counted from ``start``.

    Raises OverflowError or ValueError after the year 9999.
    """
    if repeat.on:
        return _listed_day_after(repeat, start, after)
    if repeat.unit in _MONTHS:
        return _month_day_after(repeat.every * _MONTHS[repeat.unit], start, after)
    step = repeat.every * _DAYS[repeat.unit]
    return start + timedelta(((after - start).days // step + 1) * step)


def _listed_day_after(repeat: Repeat, start: date, after: date) -> date:
    step = repeat.every * _DAYS[Unit.WEEK]
    monday = start - timedelta(start.weekday())
    week = monday + timedelta((after - monday).days // step * step)
    days = [week + timedelta(_NUMBERS[weekday]) for weekday in repeat.on]
    return next((day for day in days if day > after), days[0] + timedelta(step))


def _month_day_after(step: int, start: date, after: date) -> date:
    months = (after.year - start.year) * 12 + after.month - start.month
    months -= months % step
    day = _add_months(start, months)
    return day if day > after else _add_months(start, months + step)


def _add_months(start: date, months: int) -> date:
    """The same day of the month so many months later, or the last day of a shorter month."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    last = monthrange(year, month + 1)[1]
    return date(year, month + 1, min(start.day, last))


def _zone(name: str | None) -> tzinfo:
    return UTC if name is None else ZoneInfo(name)
