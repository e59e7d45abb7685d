from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any, Unpack
from uuid import uuid4, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tasks import HOSTILE_TEXTS, LATER, NOW, Members, a_repeating_task, a_task
from todo_domain.errors import InvalidTask, InvalidValue, Violation
from todo_domain.repeat import Repeat, Unit
from todo_domain.task import (
    DESCRIPTION_MAX,
    TAG_MAX,
    TAGS_MAX,
    TITLE_MAX,
    Description,
    Priority,
    Tag,
    Task,
    TaskChanges,
    Title,
    clean_changes,
    clean_due_date,
    clean_tags,
    due_instant,
)

UNSTORABLE = ("\0", "a\0b", "\ud800", "a\udfffb", "\udc00\ud800")
# Each text has only characters that are not drawn.
INVISIBLE = (
    *("\u200b", "\ufeff", "\u2060", "\u00ad", "\u180e", "\u2800", "\u3164", "\uffa0"),
    *("\ufe0f", "\u034f", "\u061c", "\u2064", "\u180b", "\U000e0020", "\U000e0101"),
    *("\u115f\u1160", "\u202a\u202c", "\u2066\u2069", "\u200e\u200f", "\u200d \u2028 \u200c"),
)
IN_PARIS = timezone(timedelta(hours=1))
NAIVE = datetime(2026, 1, 20, tzinfo=UTC).replace(tzinfo=None)

# The members that hold text of the user's.
TEXTS = sorted(set(TaskChanges.__annotations__) - {"completed", "priority", "due_date", "repeat"})

# Ranks are stored in the database and in cursors that clients keep.
RANKS = {1: Priority.LOW, 2: Priority.MEDIUM, 3: Priority.HIGH}


def error_code(validate: object, value: object) -> str:
    """The code of the InvalidValue that the validator raises."""
    assert callable(validate)
    with pytest.raises(InvalidValue) as caught:
        validate(value)
    return caught.value.code


def test_limits_and_priorities_are_as_documented() -> None:
    assert (TITLE_MAX, DESCRIPTION_MAX, TAG_MAX, TAGS_MAX) == (200, 2000, 50, 20)
    assert list(Priority) == ["low", "medium", "high"]


def test_an_invalid_value_has_a_message_that_names_the_rule() -> None:
    with pytest.raises(InvalidValue, match=r"^must not be empty$"):
        Title("")


class TestTitle:
    def test_loses_outer_white_space_only(self) -> None:
        assert Title("\n\u00a0 Buy  milk\t ") == "Buy  milk"

    @pytest.mark.parametrize("text", ["", " ", "\t\r\n\u00a0\u2003", *INVISIBLE])
    def test_cannot_be_blank(self, text: str) -> None:
        assert error_code(Title, text) == "blank"

    @pytest.mark.parametrize(
        "text",
        [
            "\u200bmilk\ufeff",
            "👩\u200d👧",
            "❤\ufe0f",
            "\u202ea\u202c",
            "\u115f\u1161",
            "\u0301",
            "\u0600",
            "\x1b",
            "\ue000",
            "\U0010ffff",
        ],
        ids=ascii,
    )
    def test_with_a_visible_character_is_kept_exactly(self, text: str) -> None:
        assert Title(text) == text

    def test_is_measured_without_outer_white_space(self) -> None:
        assert Title(f" {'x' * TITLE_MAX} ") == "x" * TITLE_MAX

    def test_cannot_be_longer_than_its_limit(self) -> None:
        assert error_code(Title, "x" * (TITLE_MAX + 1)) == "too_long"

    @pytest.mark.parametrize("text", UNSTORABLE)
    def test_cannot_have_a_character_that_postgresql_cannot_store(self, text: str) -> None:
        assert error_code(Title, text) == "bad_character"

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    def test_can_be_any_other_text(self, text: str) -> None:
        assert Title(text) == text

    @given(st.text(max_size=2 * TITLE_MAX))
    def test_that_passes_a_javascript_length_check_is_valid(self, text: str) -> None:
        title = f"x{text}".replace("\0", "").strip()
        if len(title.encode("utf-16-le")) // 2 <= TITLE_MAX:
            assert Title(title) == title

    def test_is_not_checked_again(self) -> None:
        title = Title("Buy milk")
        assert Title(title) is title

    def test_is_checked_when_it_comes_from_another_member(self) -> None:
        assert error_code(Title, Description("")) == "blank"


class TestDescription:
    @pytest.mark.parametrize("text", ["", " \n ", *HOSTILE_TEXTS, "é" * DESCRIPTION_MAX])
    def test_is_kept_exactly(self, text: str) -> None:
        assert Description(text) == text

    def test_cannot_be_longer_than_its_limit(self) -> None:
        assert error_code(Description, "x" * (DESCRIPTION_MAX + 1)) == "too_long"

    @pytest.mark.parametrize("text", UNSTORABLE)
    def test_cannot_have_a_character_that_postgresql_cannot_store(self, text: str) -> None:
        assert error_code(Description, text) == "bad_character"


class TestTags:
    def test_keep_their_order_without_duplicates(self) -> None:
        assert clean_tags(["work", " home", "home ", "Work"]) == ("work", "home", "Work")

    def test_are_counted_without_duplicates(self) -> None:
        tags = [str(number) for number in range(TAGS_MAX)]
        assert clean_tags([*tags, *tags]) == tuple(tags)

    def test_cannot_be_more_than_their_limit(self) -> None:
        tags = [str(number) for number in range(TAGS_MAX + 1)]
        assert error_code(clean_tags, tags) == "too_many"

    @pytest.mark.parametrize(
        ("tag", "code"),
        [
            (" ", "blank"),
            ("\u200b", "blank"),
            ("x" * (TAG_MAX + 1), "too_long"),
            ("a\0", "bad_character"),
        ],
    )
    def test_are_each_checked(self, tag: str, code: str) -> None:
        assert error_code(Tag, tag) == code
        assert error_code(clean_tags, ["home", tag]) == code


class TestDueDate:
    @pytest.mark.parametrize("due", [date.min, date(2026, 1, 20), date.max])
    def test_that_is_a_date_is_kept(self, due: date) -> None:
        assert clean_due_date(due) is due

    def test_that_is_a_date_time_is_converted_to_utc(self) -> None:
        cleaned = clean_due_date(datetime(2026, 1, 20, 0, 30, tzinfo=IN_PARIS))
        assert str(cleaned) == "2026-01-19 23:30:00+00:00"

    def test_without_an_offset_is_invalid(self) -> None:
        assert error_code(clean_due_date, NAIVE) == "no_offset"

    def test_outside_the_range_of_utc_is_invalid(self) -> None:
        assert error_code(clean_due_date, datetime.min.replace(tzinfo=IN_PARIS)) == "out_of_range"

    def test_that_is_a_date_is_compared_by_its_midnight_in_utc(self) -> None:
        assert due_instant(date(2026, 1, 20)) == datetime(2026, 1, 20, tzinfo=UTC)


class TestPriority:
    def test_has_a_rank_from_low_to_high(self) -> None:
        assert {priority.rank: priority for priority in Priority} == RANKS

    @pytest.mark.parametrize("rank", RANKS)
    def test_is_found_by_its_rank(self, rank: int) -> None:
        assert Priority.of_rank(rank) is RANKS[rank]

    @pytest.mark.parametrize("rank", [-1, 0, 4, True])
    def test_is_not_found_by_another_number(self, rank: int) -> None:
        with pytest.raises(ValueError, match=str(rank)):
            Priority.of_rank(rank)


def a_new_task(**members: Unpack[TaskChanges]) -> Task:
    return Task.new(uuid4(), "ada", NOW, **members)


class TestNewTask:
    def test_that_breaks_rules_is_refused_with_every_broken_rule(self) -> None:
        with pytest.raises(InvalidTask) as caught:
            a_new_task(title=" ", description="\0", due_date=NAIVE, tags=("x" * 51,))
        broken = [(violation.field, violation.code) for violation in caught.value.violations]
        assert broken == [
            ("title", "blank"),
            ("description", "bad_character"),
            ("due_date", "no_offset"),
            ("tags", "too_long"),
        ]

    def test_that_breaks_rules_is_refused_with_fields_and_messages(self) -> None:
        message = r"^title: must not be empty; tags: must be at most 50 characters$"
        with pytest.raises(InvalidTask, match=message) as caught:
            a_new_task(title="", tags=("x" * 51,))
        assert caught.value.violations == (
            Violation("title", "blank", "must not be empty"),
            Violation("tags", "too_long", "must be at most 50 characters"),
        )

    @pytest.mark.parametrize("title", [None, ()], ids=str)
    def test_must_have_a_title(self, title: object) -> None:
        with pytest.raises(AttributeError):
            a_new_task(title=title)  # type: ignore[arg-type]

    @pytest.mark.parametrize("member", TEXTS)
    def test_cannot_have_text_that_cannot_be_stored(self, member: str) -> None:
        with pytest.raises(InvalidTask, match=f"^{member}: "):
            a_new_task(**({"title": "x"} | unstorable(member)))

    def test_has_clean_members(self) -> None:
        due = datetime(2026, 1, 20, 0, 30, tzinfo=IN_PARIS)
        task = a_new_task(title=" Buy milk ", due_date=due, tags=("home ", "home"))
        assert (task.title, task.tags) == ("Buy milk", ("home",))
        assert str(task.due_date) == "2026-01-19 23:30:00+00:00"

    def test_is_pending_at_version_one(self) -> None:
        task = Task.new(a_task().id, "ada", NOW, title="Buy milk")
        assert (task.version, task.created_at, task.updated_at) == (1, NOW, NOW)
        assert not task.completed

    def test_can_be_completed(self) -> None:
        assert Task.new(a_task().id, "ada", NOW, title="Done", completed=True).completed_at == NOW


class TestRepr:
    def test_has_no_member_with_text_of_the_user(self) -> None:
        shown = {field.name for field in fields(Task) if field.repr}
        assert shown & set(TaskChanges.__annotations__) == {"priority", "due_date", "repeat"}

    def test_has_the_id_and_no_text_of_the_user(self) -> None:
        task = a_task(title="private", description="private", tags=("private",))
        assert "private" not in repr(task)
        assert str(task.id) in repr(task)


class TestChange:
    def test_replaces_the_named_members_and_keeps_the_others(self) -> None:
        task = a_task(description="2 litres", priority=Priority.LOW, tags=("home",))
        changed = task.changed(LATER, title="Buy oat milk", priority=None)
        assert (changed.title, changed.priority) == ("Buy oat milk", None)
        assert (changed.description, changed.tags) == ("2 litres", ("home",))

    def test_increments_the_version_and_sets_the_time(self) -> None:
        changed = a_task(version=7).changed(LATER, title="Buy oat milk")
        assert (changed.version, changed.updated_at, changed.created_at) == (8, LATER, NOW)

    def test_leaves_the_original_as_it_was(self) -> None:
        task = a_task()
        task.changed(LATER, title="Buy oat milk")
        assert (task.title, task.version) == ("Buy milk", 1)

    def test_that_alters_nothing_returns_the_same_task(self) -> None:
        task = a_task(tags=("home",))
        assert task.changed(LATER) is task
        assert task.changed(LATER, title=" Buy milk ", completed=False, tags=["home"]) is task

    def test_from_a_date_to_its_midnight_alters_the_task(self) -> None:
        task = a_task(due_date=date(2026, 1, 20))
        assert task.changed(LATER, due_date=datetime(2026, 1, 20, tzinfo=UTC)) is not task

    def test_never_decreases_updated_at_when_the_clock_was_set_back(self) -> None:
        changed = a_task(updated_at=LATER).changed(NOW, title="Buy oat milk")
        assert changed.updated_at == LATER

    def test_that_breaks_rules_is_refused_with_every_broken_rule(self) -> None:
        with pytest.raises(InvalidTask, match=r"^title: must not be empty; tags: must not be"):
            a_task().changed(LATER, title="", tags=[" "])

    @pytest.mark.parametrize("member", TEXTS)
    def test_cannot_set_text_that_cannot_be_stored(self, member: str) -> None:
        with pytest.raises(InvalidTask, match=f"^{member}: "):
            a_task().changed(LATER, **unstorable(member))

    def test_sets_clean_members(self) -> None:
        changed = a_task().changed(LATER, title=" Buy oat milk ", tags=["home ", "home"])
        assert (changed.title, changed.tags) == ("Buy oat milk", ("home",))

    def test_to_completed_sets_the_time_of_completion(self) -> None:
        assert a_task().changed(LATER, completed=True).completed_at == LATER

    def test_of_a_completed_task_to_completed_keeps_the_first_time(self) -> None:
        task = a_task(completed_at=NOW)
        assert task.changed(LATER, completed=True) is task

    def test_to_pending_clears_the_time_of_completion(self) -> None:
        assert a_task(completed_at=NOW).changed(LATER, completed=False).completed_at is None

    def test_by_toggling_completes_a_pending_task_and_reopens_a_completed_one(self) -> None:
        completed = a_task().toggled(LATER)
        assert completed.completed
        assert not completed.toggled(LATER).completed


class TestSeries:
    @pytest.mark.parametrize(
        ("members", "field"),
        [
            (Members(due_date=None), "due_date"),
            (Members(due_date=NOW), "time_zone"),
            (Members(due_date=NOW, time_zone=None), "time_zone"),
        ],
    )
    def test_needs_a_due_date_and_the_zone_of_its_time(self, members: Members, field: str) -> None:
        changes = TaskChanges(title="x", repeat=Repeat(Unit.DAY), **members)  # type: ignore[typeddict-item]
        for attempt in (a_new_task, partial(a_task().changed, LATER)):
            with pytest.raises(InvalidTask) as caught:
                attempt(**changes)
            assert [violation.field for violation in caught.value.violations] == [field]

    def test_cannot_lose_what_it_needs(self) -> None:
        timed = a_repeating_task(due_date=NOW, time_zone="UTC")
        for cleared in (TaskChanges(due_date=None), TaskChanges(time_zone=None)):
            with pytest.raises(InvalidTask):
                timed.changed(LATER, **cleared)
            cleared["repeat"] = None
            assert timed.changed(LATER, **cleared).repeat is None

    def test_needs_no_zone_for_a_date(self) -> None:
        task = a_repeating_task(time_zone="UTC").changed(LATER, time_zone=None)
        assert (task.repeat, task.time_zone) == (Repeat(Unit.DAY), None)

    def test_names_an_unknown_time_zone(self) -> None:
        with pytest.raises(InvalidTask, match=r"^time_zone: must be an IANA time zone"):
            a_task().changed(LATER, time_zone="Mars/Olympus")

    def test_has_a_pending_successor_with_the_same_members(self) -> None:
        task = a_repeating_task(description="2 l", priority=Priority.LOW, tags=("a",), position="b")
        completed = task.changed(LATER, completed=True)
        assert completed.next_id is not None
        assert completed.successor() == replace(
            task,
            id=completed.next_id,
            due_date=date(2026, 1, 19),
            anchor=datetime(2026, 1, 18),  # noqa: DTZ001 - local
            created_at=LATER,
            updated_at=LATER,
        )

    @pytest.mark.parametrize(
        ("due", "text"),
        [(date(2026, 1, 20), "2026-01-21"), (NOW, "2026-01-19T09:30:00.000000Z")],
    )
    def test_has_the_documented_id_of_the_successor(self, due: date, text: str) -> None:
        task = a_repeating_task(due_date=due, time_zone="UTC")
        assert task.changed(NOW, completed=True).next_id == uuid5(task.id, text)

    @given(st.timedeltas(timedelta(0), timedelta(hours=14)))
    def test_has_the_same_successor_from_two_devices(self, delay: timedelta) -> None:
        task = a_repeating_task()
        one, other = (task.changed(at, completed=True) for at in (NOW, NOW + delay))
        assert one.next_id == other.next_id is not None

    def test_of_a_pending_task_or_a_task_that_does_not_repeat_has_no_successor(self) -> None:
        assert a_repeating_task().successor() is None
        assert a_task(due_date=NOW.date(), completed_at=NOW).successor() is None

    def test_that_has_ended_has_no_successor(self) -> None:
        task = a_repeating_task(repeat=Repeat(Unit.DAY, until=NOW.date()))
        assert task.changed(LATER, completed=True).next_id is None

    def test_that_is_created_as_completed_has_no_successor(self) -> None:
        task = a_new_task(title="x", completed=True, due_date=NOW, time_zone="UTC")
        assert task.next_id is None

    def test_has_one_successor_if_it_is_reopened_and_completed_again(self) -> None:
        completed = a_repeating_task().changed(LATER, completed=True)
        again = completed.toggled(LATER).changed(LATER + timedelta(days=9), completed=True)
        assert again.next_id == completed.next_id

    def test_takes_the_changes_of_its_completion(self) -> None:
        completed = a_repeating_task().changed(LATER, completed=True, title="x", priority=None)
        successor = completed.successor()
        assert successor is not None
        assert successor.title == "x"

    @pytest.mark.parametrize(
        ("changes", "is_kept"),
        [
            (TaskChanges(title="x", repeat=Repeat(Unit.MONTH)), True),
            (TaskChanges(due_date=date(2026, 3, 1)), False),
            (TaskChanges(repeat=Repeat(Unit.YEAR)), False),
            (TaskChanges(time_zone="Asia/Tokyo"), False),
        ],
    )
    def test_starts_again_with_another_rule_or_due_date(
        self, changes: TaskChanges, *, is_kept: bool
    ) -> None:
        task = a_repeating_task(
            repeat=Repeat(Unit.MONTH),
            due_date=date(2026, 2, 28),
            anchor=datetime(2026, 1, 31),  # noqa: DTZ001 - local
        )
        assert (task.changed(LATER, **changes).anchor == task.anchor) == is_kept


def test_clean_changes_have_the_given_members_only() -> None:
    due = datetime(2026, 1, 20, 0, 30, tzinfo=IN_PARIS)
    clean = clean_changes({"title": " Buy milk ", "due_date": due, "completed": True})
    assert clean == {"title": "Buy milk", "due_date": due.astimezone(UTC), "completed": True}
    assert clean_changes({"description": None, "due_date": None}) == {
        "description": None,
        "due_date": None,
    }


def unstorable(member: str) -> Any:  # noqa: ANN401 - TaskChanges with one member that varies
    return {member: ("\0",) if member == "tags" else "\0"}
