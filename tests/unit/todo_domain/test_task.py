from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Unpack
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tasks import HOSTILE_TEXTS, LATER, NOW, a_task
from todo_domain.errors import InvalidTask, InvalidValue, Violation
from todo_domain.task import (
    DESCRIPTION_MAX,
    TAG_MAX,
    TAGS_MAX,
    TITLE_MAX,
    Priority,
    Task,
    TaskChanges,
    clean_description,
    clean_due_date,
    clean_tag,
    clean_tags,
    clean_title,
    due_instant,
)

UNSTORABLE = ("\0", "a\0b", "\ud800", "a\udfffb", "\udc00\ud800")
IN_PARIS = timezone(timedelta(hours=1))
NAIVE = datetime(2026, 1, 20, tzinfo=UTC).replace(tzinfo=None)

# What users write in their own words.
WORDS = sorted(set(TaskChanges.__annotations__) - {"completed", "priority", "due_date"})

# Ranks are stored, and are in cursors that clients keep.
RANKS = {1: Priority.LOW, 2: Priority.MEDIUM, 3: Priority.HIGH}


def broken(rule: object, value: object) -> str:
    assert callable(rule)
    with pytest.raises(InvalidValue) as caught:
        rule(value)
    return caught.value.code


def test_limits_and_names_are_those_that_are_promised() -> None:
    assert (TITLE_MAX, DESCRIPTION_MAX, TAG_MAX, TAGS_MAX) == (200, 2000, 50, 20)
    assert list(Priority) == ["low", "medium", "high"]


def test_a_broken_rule_says_what_must_be() -> None:
    with pytest.raises(InvalidValue, match=r"^must not be empty$"):
        clean_title("")


class TestTitle:
    def test_loses_its_outer_white_space_only(self) -> None:
        assert clean_title("\n\u00a0 Buy  milk\t ") == "Buy  milk"

    @pytest.mark.parametrize("text", ["", " ", "\t\r\n\u00a0\u2003"])
    def test_is_never_blank(self, text: str) -> None:
        assert broken(clean_title, text) == "blank"

    def test_is_measured_without_outer_white_space(self) -> None:
        assert clean_title(f" {'x' * TITLE_MAX} ") == "x" * TITLE_MAX

    def test_is_never_longer_than_its_limit(self) -> None:
        assert broken(clean_title, "x" * (TITLE_MAX + 1)) == "too_long"

    @pytest.mark.parametrize("text", UNSTORABLE)
    def test_holds_no_character_that_postgresql_cannot_store(self, text: str) -> None:
        assert broken(clean_title, text) == "bad_character"

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    def test_may_be_any_other_text(self, text: str) -> None:
        assert clean_title(text) == text

    @given(st.text(max_size=2 * TITLE_MAX))
    def test_that_passes_javascripts_length_check_passes_here(self, text: str) -> None:
        title = text.replace("\0", "").strip() or "x"
        if len(title.encode("utf-16-le")) // 2 <= TITLE_MAX:
            assert clean_title(title) == title


class TestDescription:
    @pytest.mark.parametrize("text", ["", " \n ", *HOSTILE_TEXTS, "é" * DESCRIPTION_MAX])
    def test_stays_exactly_as_it_came(self, text: str) -> None:
        assert clean_description(text) == text

    def test_is_never_longer_than_its_limit(self) -> None:
        assert broken(clean_description, "x" * (DESCRIPTION_MAX + 1)) == "too_long"

    @pytest.mark.parametrize("text", UNSTORABLE)
    def test_holds_no_character_that_postgresql_cannot_store(self, text: str) -> None:
        assert broken(clean_description, text) == "bad_character"


class TestTags:
    def test_keep_their_first_order_each_once(self) -> None:
        assert clean_tags(["work", " home", "home ", "Work"]) == ("work", "home", "Work")

    def test_are_counted_without_duplicates(self) -> None:
        tags = [str(number) for number in range(TAGS_MAX)]
        assert clean_tags([*tags, *tags]) == tuple(tags)

    def test_are_never_more_than_their_limit(self) -> None:
        assert broken(clean_tags, [str(number) for number in range(TAGS_MAX + 1)]) == "too_many"

    @pytest.mark.parametrize(
        ("tag", "code"),
        [(" ", "blank"), ("x" * (TAG_MAX + 1), "too_long"), ("a\0", "bad_character")],
    )
    def test_are_each_a_short_text_that_says_something(self, tag: str, code: str) -> None:
        assert broken(clean_tag, tag) == code
        assert broken(clean_tags, ["home", tag]) == code


class TestDueDate:
    @pytest.mark.parametrize("due", [date.min, date(2026, 1, 20), date.max])
    def test_that_is_a_date_stays_a_date(self, due: date) -> None:
        assert clean_due_date(due) is due

    def test_that_is_a_date_time_is_kept_in_utc(self) -> None:
        cleaned = clean_due_date(datetime(2026, 1, 20, 0, 30, tzinfo=IN_PARIS))
        assert str(cleaned) == "2026-01-19 23:30:00+00:00"

    def test_without_an_offset_is_refused(self) -> None:
        assert broken(clean_due_date, NAIVE) == "no_offset"

    def test_that_utc_cannot_express_is_refused(self) -> None:
        assert broken(clean_due_date, datetime.min.replace(tzinfo=IN_PARIS)) == "out_of_range"

    def test_that_is_a_date_means_its_midnight_in_utc(self) -> None:
        assert due_instant(date(2026, 1, 20)) == datetime(2026, 1, 20, tzinfo=UTC)


class TestPriority:
    def test_ranks_as_people_mean_it(self) -> None:
        assert {priority.rank: priority for priority in Priority} == RANKS

    @pytest.mark.parametrize("rank", RANKS)
    def test_is_found_by_its_rank(self, rank: int) -> None:
        assert Priority.of_rank(rank) is RANKS[rank]

    @pytest.mark.parametrize("rank", [-1, 0, 4, True])
    def test_is_not_found_by_what_is_no_rank(self, rank: int) -> None:
        with pytest.raises(ValueError, match=str(rank)):
            Priority.of_rank(rank)


def a_new_task(**members: Unpack[TaskChanges]) -> Task:
    return Task.new(uuid4(), "ada", NOW, **members)


class TestTask:
    def test_that_breaks_rules_cannot_begin_and_every_broken_rule_is_named(self) -> None:
        with pytest.raises(InvalidTask) as caught:
            a_new_task(title=" ", description="\0", due_date=NAIVE, tags=("x" * 51,))
        told = [(violation.field, violation.code) for violation in caught.value.violations]
        assert told == [
            ("title", "blank"),
            ("description", "bad_character"),
            ("due_date", "no_offset"),
            ("tags", "too_long"),
        ]

    def test_that_breaks_a_rule_says_where_and_what(self) -> None:
        said = r"^title: must not be empty; tags: must be at most 50 characters$"
        with pytest.raises(InvalidTask, match=said) as caught:
            a_new_task(title="", tags=("x" * 51,))
        assert caught.value.violations == (
            Violation("title", "blank", "must not be empty"),
            Violation("tags", "too_long", "must be at most 50 characters"),
        )

    @pytest.mark.parametrize("unsaid", [None, ()], ids=str)
    def test_always_has_a_title(self, unsaid: object) -> None:
        with pytest.raises(AttributeError):
            Task(id=uuid4(), owner="ada", title=unsaid, created_at=NOW, updated_at=NOW)  # type: ignore[arg-type]

    def test_holds_its_members_clean(self) -> None:
        due = datetime(2026, 1, 20, 0, 30, tzinfo=IN_PARIS)
        task = a_new_task(title=" Buy milk ", due_date=due, tags=("home ", "home"))
        assert (task.title, task.tags) == ("Buy milk", ("home",))
        assert str(task.due_date) == "2026-01-19 23:30:00+00:00"

    def test_shows_no_words_of_its_authors_in_its_repr(self) -> None:
        shown = {field.name for field in fields(Task) if field.repr}
        assert shown & set(TaskChanges.__annotations__) == {"priority", "due_date"}

    @pytest.mark.parametrize("member", WORDS)
    def test_holds_no_words_that_cannot_be_stored(self, member: str) -> None:
        changes: dict[str, Any] = {member: ("\0",) if member == "tags" else "\0"}
        with pytest.raises(InvalidTask, match=f"^{member}: "):
            replace(a_task(), **changes)

    def test_shows_nothing_that_its_author_wrote_in_its_repr(self) -> None:
        task = a_task(title="private", description="private", tags=("private",))
        assert "private" not in repr(task)
        assert str(task.id) in repr(task)

    def test_begins_pending_at_version_one(self) -> None:
        task = Task.new(a_task().id, "ada", NOW, title="Buy milk")
        assert (task.version, task.created_at, task.updated_at) == (1, NOW, NOW)
        assert not task.completed

    def test_may_begin_completed(self) -> None:
        assert Task.new(a_task().id, "ada", NOW, title="Done", completed=True).completed_at == NOW


class TestChange:
    def test_replaces_the_named_members_and_keeps_the_others(self) -> None:
        task = a_task(description="2 litres", priority=Priority.LOW, tags=("home",))
        changed = task.changed(LATER, title="Buy oat milk", priority=None)
        assert (changed.title, changed.priority) == ("Buy oat milk", None)
        assert (changed.description, changed.tags) == ("2 litres", ("home",))

    def test_counts_a_version_and_notes_the_time(self) -> None:
        changed = a_task(version=7).changed(LATER, title="Buy oat milk")
        assert (changed.version, changed.updated_at, changed.created_at) == (8, LATER, NOW)

    def test_leaves_the_task_it_was_made_from_as_it_was(self) -> None:
        task = a_task()
        task.changed(LATER, title="Buy oat milk")
        assert (task.title, task.version) == ("Buy milk", 1)

    def test_that_alters_nothing_returns_the_task_itself(self) -> None:
        task = a_task(tags=("home",))
        assert task.changed(LATER) is task
        assert task.changed(LATER, title=" Buy milk ", completed=False, tags=["home"]) is task

    def test_of_a_date_to_its_midnight_is_a_change(self) -> None:
        task = a_task(due_date=date(2026, 1, 20))
        assert task.changed(LATER, due_date=datetime(2026, 1, 20, tzinfo=UTC)) is not task

    def test_under_a_clock_set_back_does_not_make_a_task_look_older(self) -> None:
        changed = a_task(updated_at=LATER).changed(NOW, title="Buy oat milk")
        assert changed.updated_at == LATER

    def test_that_breaks_rules_is_refused_naming_every_one(self) -> None:
        with pytest.raises(InvalidTask, match=r"^title: must not be empty; tags: must not be"):
            a_task().changed(LATER, title="", tags=[" "])

    def test_holds_its_members_clean(self) -> None:
        changed = a_task().changed(LATER, title=" Buy oat milk ", tags=["home ", "home"])
        assert (changed.title, changed.tags) == ("Buy oat milk", ("home",))

    def test_to_completed_notes_when(self) -> None:
        assert a_task().changed(LATER, completed=True).completed_at == LATER

    def test_to_completed_again_keeps_the_first_time(self) -> None:
        task = a_task(completed_at=NOW)
        assert task.changed(LATER, completed=True) is task

    def test_to_pending_forgets_when_it_was_completed(self) -> None:
        assert a_task(completed_at=NOW).changed(LATER, completed=False).completed_at is None

    def test_of_a_toggle_completes_what_is_pending_and_reopens_what_is_completed(self) -> None:
        completed = a_task().toggled(LATER)
        assert completed.completed
        assert not completed.toggled(LATER).completed
