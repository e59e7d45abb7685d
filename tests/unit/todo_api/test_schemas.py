"""The JSON representation of tasks: what each member accepts, and how tasks are serialized."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from support.tasks import HOSTILE_TEXTS, a_task
from todo_api.http.responses import serialize_task, to_json, utc
from todo_api.http.validation_errors import field_errors
from todo_api.schemas import (
    Completion,
    ListQuery,
    NewTask,
    TaskChanges,
)
from todo_domain.queries import Sort, SortBy
from todo_domain.task import Priority, Task

NEW: Final[TypeAdapter[Any]] = TypeAdapter(NewTask)
CHANGES: Final[TypeAdapter[Any]] = TypeAdapter(TaskChanges)
COMPLETION: Final[TypeAdapter[Any]] = TypeAdapter(Completion)

JAN_31: Final = date(2026, 1, 31)
HALF_PAST_NINE: Final = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
MAX_TITLE: Final = "x" * 200
# RFC 3339, section 5.7; the first is from its section 5.8.
LEAP_SECONDS: Final = {
    "1990-12-31T15:59:60-08:00": datetime(1991, 1, 1, tzinfo=UTC),
    "2016-12-31T23:59:60Z": datetime(2017, 1, 1, tzinfo=UTC),
    "2016-12-31t23:59:60.5z": datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC),
    "2015-07-01T05:29:60.1234567+05:30": datetime(2015, 7, 1, 0, 0, 0, 123_456, tzinfo=UTC),
    "2027-02-28 23:59:60Z": datetime(2027, 3, 1, tzinfo=UTC),
}


def errors_of(adapter: TypeAdapter[Any], sent: object) -> list[tuple[str, str]]:
    """Field and code of every error in what a client sent."""
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(sent)
    errors = field_errors(caught.value.errors(include_url=False, include_input=False), sent)
    assert all(error["message"] for error in errors)
    return [(error["field"], error["code"]) for error in errors]


class TestMember:
    @pytest.mark.parametrize(
        ("member", "sent", "kept"),
        [
            ("title", "Buy milk", "Buy milk"),
            ("title", "  Buy  milk\n", "Buy  milk"),
            ("title", f" {MAX_TITLE} ", MAX_TITLE),
            ("title", "😀" * 100, "😀" * 100),
            *(("title", text, text) for text in HOSTILE_TEXTS),
            ("description", None, None),
            ("description", "", ""),
            ("description", " \n2 litres ", " \n2 litres "),
            ("description", "é" * 2000, "é" * 2000),
            ("completed", True, True),
            ("completed", False, False),
            ("priority", None, None),
            ("priority", "", None),
            ("priority", "low", Priority.LOW),
            ("priority", "Medium", Priority.MEDIUM),
            ("priority", "HIGH", Priority.HIGH),
            ("due_date", None, None),
            ("due_date", "", None),
            ("due_date", "2026-01-31", JAN_31),
            ("due_date", "0001-01-01", date.min),
            ("due_date", "9999-12-31", date.max),
            ("due_date", "2024-02-29", date(2024, 2, 29)),
            ("due_date", "2026-01-31T09:30:00Z", HALF_PAST_NINE),
            ("due_date", "2026-01-31t09:30:00z", HALF_PAST_NINE),
            ("due_date", "2026-01-31 09:30:00Z", HALF_PAST_NINE),
            ("due_date", "2026-01-31T09:30:00.000Z", HALF_PAST_NINE),
            ("due_date", "2026-01-31T09:30:00+00:00", HALF_PAST_NINE),
            ("due_date", "2026-01-31T09:30:00-00:00", HALF_PAST_NINE),
            ("due_date", "2026-01-31T11:30:00+02:00", HALF_PAST_NINE),
            ("due_date", "2026-01-30T23:30:00-10:00", HALF_PAST_NINE),
            ("due_date", "2026-01-31T15:15:00+05:45", HALF_PAST_NINE),
            ("due_date", "2026-01-31T09:30:00.1Z", HALF_PAST_NINE.replace(microsecond=100_000)),
            (
                "due_date",
                "2026-01-31T09:30:00.123456789Z",
                HALF_PAST_NINE.replace(microsecond=123_456),
            ),
            *(("due_date", text, after) for text, after in LEAP_SECONDS.items()),
            ("tags", [], ()),
            ("tags", None, ()),
            ("tags", "", ()),
            ("tags", ["home", " work ", "home"], ("home", "work")),
            ("tags", ["Home", "home"], ("Home", "home")),
            ("tags", ["x" * 50] * 30, ("x" * 50,)),
            ("tags", [str(n) for n in range(20)], tuple(str(n) for n in range(20))),
            ("position", None, None),
            ("position", "1", "1"),
            ("position", "Az09z", "Az09z"),
            ("position", "z" * 64, "z" * 64),
        ],
    )
    def test_a_valid_member_is_parsed(self, member: str, sent: object, kept: object) -> None:
        assert CHANGES.validate_python({member: sent}) == {member: kept}
        assert NEW.validate_python({"title": "x", member: sent}) == {"title": "x", member: kept}

    @pytest.mark.parametrize(
        ("member", "sent", "code"),
        [
            ("title", "", "blank"),
            ("title", " \t\n\u00a0\u3000", "blank"),
            ("title", "\u200b\ufeff", "blank"),
            ("title", "x" * 201, "too_long"),
            ("title", "a\0b", "bad_character"),
            ("title", "\ud83d", "bad_character"),
            ("title", None, "wrong_type"),
            ("title", 1, "wrong_type"),
            ("title", True, "wrong_type"),
            ("title", ["Buy milk"], "wrong_type"),
            ("title", {}, "wrong_type"),
            ("description", "x" * 2001, "too_long"),
            ("description", "\0", "bad_character"),
            ("description", 1, "wrong_type"),
            ("description", {}, "wrong_type"),
            ("completed", None, "wrong_type"),
            ("completed", "true", "wrong_type"),
            ("completed", "", "wrong_type"),
            ("completed", 1, "wrong_type"),
            ("completed", 0.0, "wrong_type"),
            ("completed", [], "wrong_type"),
            ("priority", "urgent", "unknown_value"),
            ("priority", " low", "unknown_value"),
            ("priority", 1, "wrong_type"),
            ("priority", False, "wrong_type"),
            ("priority", ["low"], "wrong_type"),
            ("due_date", "tomorrow", "bad_date"),
            ("due_date", "31.01.2026", "bad_date"),
            ("due_date", "2026-1-31", "bad_date"),
            ("due_date", "20260131", "bad_date"),
            ("due_date", "2026-W05-6", "bad_date"),
            ("due_date", "2026-02-30", "bad_date"),
            ("due_date", "2025-02-29", "bad_date"),
            ("due_date", "0000-01-01", "bad_date"),
            ("due_date", "10000-01-01", "bad_date"),
            ("due_date", " 2026-01-31", "bad_date"),
            ("due_date", "2026-01-31\n", "bad_date"),
            ("due_date", "\u0662\u0660\u0662\u0666-01-31", "bad_date"),
            ("due_date", "2026-01-31T09:30:00", "bad_date"),
            ("due_date", "2026-01-31T09:30Z", "bad_date"),
            ("due_date", "2026-01-31T09:30:00+0200", "bad_date"),
            ("due_date", "2026-01-31T09:30:00,5Z", "bad_date"),
            ("due_date", "2026-01-31T09:30:00.Z", "bad_date"),
            ("due_date", "2026-01-31T24:30:00Z", "bad_date"),
            ("due_date", "2026-01-31T09:60:00Z", "bad_date"),
            ("due_date", "2026-01-31T09:30:61Z", "bad_date"),
            ("due_date", "2016-12-31T23:59:61Z", "bad_date"),
            ("due_date", "2016-12-31T23:58:60Z", "bad_date"),
            ("due_date", "2016-12-31T22:59:60Z", "bad_date"),
            ("due_date", "2016-12-31T23:59:60+01:00", "bad_date"),
            ("due_date", "2016-12-30T23:59:60Z", "bad_date"),
            ("due_date", "9999-12-31T23:59:60Z", "bad_date"),
            ("due_date", "2026-01-31T09:30:00+24:00", "bad_date"),
            ("due_date", "2026-01-31T09:30:00+02:60", "bad_date"),
            ("due_date", "0001-01-01T00:00:00+02:00", "out_of_range"),
            ("due_date", "9999-12-31T23:59:59-02:00", "out_of_range"),
            ("due_date", 1769817600, "wrong_type"),
            ("due_date", True, "wrong_type"),
            ("due_date", {}, "wrong_type"),
            ("tags", "home", "wrong_type"),
            ("tags", {}, "wrong_type"),
            ("tags", 1, "wrong_type"),
            ("tags", [str(n) for n in range(21)], "too_many"),
            ("position", "", "bad_position"),
            ("position", "a0", "bad_position"),
            ("position", "0", "bad_position"),
            ("position", "z" * 65, "bad_position"),
            ("position", " a", "bad_position"),
            ("position", "a\n", "bad_position"),
            ("position", "a-b", "bad_position"),
            ("position", "\u0661", "bad_position"),
            ("position", 1.5, "wrong_type"),
        ],
    )
    def test_an_invalid_member_has_this_code(self, member: str, sent: object, code: str) -> None:
        assert errors_of(CHANGES, {member: sent}) == [(member, code)]
        assert errors_of(NEW, {"title": "x", member: sent}) == [(member, code)]

    @pytest.mark.parametrize(
        ("tag", "code"),
        [
            ("", "blank"),
            (" \u2003", "blank"),
            ("x" * 51, "too_long"),
            ("a\0", "bad_character"),
            ("\udc00", "bad_character"),
            (None, "wrong_type"),
            (1, "wrong_type"),
            (["home"], "wrong_type"),
        ],
    )
    def test_an_invalid_tag_is_named_by_its_index(self, tag: object, code: str) -> None:
        assert errors_of(CHANGES, {"tags": ["home", tag]}) == [("tags.1", code)]

    @pytest.mark.parametrize("adapter", [NEW, CHANGES], ids=["new", "changes"])
    def test_camel_case_is_accepted(self, adapter: TypeAdapter[Any]) -> None:
        sent = {"title": "x", "dueDate": "2026-01-31"}
        assert adapter.validate_python(sent) == {"title": "x", "due_date": JAN_31}

    @pytest.mark.parametrize("spelling", ["due_date", "dueDate"])
    def test_an_error_names_the_member_in_the_clients_spelling(self, spelling: str) -> None:
        assert errors_of(CHANGES, {spelling: "soon"}) == [(spelling, "bad_date")]

    @pytest.mark.parametrize(
        "ignored",
        [
            *("user_id", "userId", "created_at", "updated_at", "completed_at", "version"),
            *("unknown", "", "__proto__", "constructor", "Title", "COMPLETED", "\ud800"),
        ],
    )
    def test_read_only_and_unknown_members_are_ignored(self, ignored: str) -> None:
        values: list[object] = [None, "x", 7, {"deep": []}]
        for value in values:
            assert CHANGES.validate_python({ignored: value}) == {}
            assert NEW.validate_python({"title": "x", ignored: value}) == {"title": "x"}
            assert COMPLETION.validate_python({ignored: value}) == {}


class TestBody:
    def test_a_new_task_needs_only_a_title(self) -> None:
        assert NEW.validate_python({"title": "Buy milk"}) == {"title": "Buy milk"}
        assert errors_of(NEW, {}) == [("title", "required")]

    def test_changes_may_be_empty(self) -> None:
        assert CHANGES.validate_python({}) == {}

    def test_a_completion_may_be_empty(self) -> None:
        assert COMPLETION.validate_python({}) == {}
        assert COMPLETION.validate_python({"completed": True}) == {"completed": True}

    @pytest.mark.parametrize("value", [None, "true", 1])
    def test_a_completion_is_true_or_false(self, value: object) -> None:
        assert errors_of(COMPLETION, {"completed": value}) == [("completed", "wrong_type")]

    def test_every_invalid_member_is_named(self) -> None:
        sent = {"title": "", "completed": 1, "priority": "x", "due_date": "x", "tags": [1, ""]}
        assert errors_of(CHANGES, sent) == [
            ("title", "blank"),
            ("completed", "wrong_type"),
            ("priority", "unknown_value"),
            ("due_date", "bad_date"),
            ("tags.0", "wrong_type"),
            ("tags.1", "blank"),
        ]

    def test_a_pointer_leads_to_the_invalid_value(self) -> None:
        sent = {"title": 1, "tags": ["home", ""]}
        with pytest.raises(ValidationError) as caught:
            CHANGES.validate_python(sent)
        pointers = [error.get("pointer") for error in field_errors(caught.value.errors(), sent)]
        assert pointers == ["/title", "/tags/1"]


def decoded(task: Task) -> Any:  # noqa: ANN401 - JSON
    """The JSON document that a client gets."""
    return orjson.loads(to_json(serialize_task(task)))


class TestSerializedTask:
    def test_a_serialized_task_has_exactly_these_bytes(self) -> None:
        task = a_task(
            id=UUID("0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"),
            owner="dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh",
        )
        assert to_json(serialize_task(task)) == (
            b'{"id":"0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b",'
            b'"user_id":"dlMsxWRCI2eyTUbIQ9DUoaji4ROD9Eqh","title":"Buy milk",'
            b'"description":null,"completed":false,"priority":null,"due_date":null,"tags":[],'
            b'"position":null,"repeat":null,"time_zone":null,'
            b'"created_at":"2026-01-18T09:30:00.000000Z",'
            b'"updated_at":"2026-01-18T09:30:00.000000Z","completed_at":null,"version":1}'
        )

    def test_a_serialized_task_has_every_value(self) -> None:
        later = HALF_PAST_NINE + timedelta(microseconds=1)
        task = a_task(priority=Priority.HIGH, tags=("home",), completed_at=later, version=7)
        document = decoded(task)
        assert (document["priority"], document["tags"], document["version"]) == (
            "high",
            ["home"],
            7,
        )
        assert document["completed"]
        assert document["completed_at"] == "2026-01-31T09:30:00.000001Z"

    @pytest.mark.parametrize(
        ("due", "text"),
        [
            (JAN_31, "2026-01-31"),
            (date.min, "0001-01-01"),
            (date.max, "9999-12-31"),
            (HALF_PAST_NINE, "2026-01-31T09:30:00.000000Z"),
            (HALF_PAST_NINE + 10 * timedelta(milliseconds=1), "2026-01-31T09:30:00.010000Z"),
            (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
            (datetime.min.replace(tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
        ],
    )
    def test_a_date_is_serialized_as_a_date_and_a_date_time_in_utc(
        self, due: date | datetime, text: str
    ) -> None:
        assert decoded(a_task(due_date=due))["due_date"] == text

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_every_time_has_microseconds_and_utc(self, moment: datetime) -> None:
        assert decoded(a_task(updated_at=moment))["updated_at"] == utc(moment)


class TestListQuery:
    @pytest.mark.parametrize(
        ("sent", "sort"),
        [
            ({}, Sort(SortBy.CREATED_AT, descending=True)),
            ({"sort": "title"}, Sort(SortBy.TITLE, descending=False)),
            ({"sort": "-due_date"}, Sort(SortBy.DUE_DATE, descending=True)),
            ({"sort": "priority", "order": "desc"}, Sort(SortBy.PRIORITY, descending=True)),
            ({"sort": "-updated_at", "order": "asc"}, Sort(SortBy.UPDATED_AT, descending=False)),
            ({"order": "asc"}, Sort(SortBy.CREATED_AT, descending=False)),
        ],
    )
    def test_sort_and_order_give_this_order(self, sent: dict[str, str], sort: Sort) -> None:
        assert ListQuery.model_validate(sent).sorting() == sort

    @pytest.mark.parametrize(
        ("sent", "completed"),
        [
            ({}, None),
            ({"status": "all"}, None),
            ({"status": "pending"}, False),
            ({"status": "completed"}, True),
            ({"completed": "true"}, True),
            ({"completed": "false"}, False),
            ({"status": "all", "completed": "true"}, None),
            ({"status": "pending", "completed": "true"}, False),
        ],
    )
    def test_status_and_completed_give_this_filter(
        self, sent: dict[str, str], *, completed: bool | None
    ) -> None:
        assert ListQuery.model_validate(sent).filter().completed == completed

    def test_a_due_bound_that_is_a_date_is_midnight_in_utc(self) -> None:
        listed = ListQuery.model_validate({"due_before": "2026-01-31"}).filter()
        assert listed.due_before == datetime(2026, 1, 31, tzinfo=UTC)

    def test_a_due_bound_may_be_a_leap_second(self) -> None:
        sent = {"due_before": "2016-12-31T23:59:60Z", "due_after": "2015-06-30T23:59:60Z"}
        listed = ListQuery.model_validate(sent).filter()
        assert listed.due_before == datetime(2017, 1, 1, tzinfo=UTC)
        assert listed.due_after == datetime(2015, 7, 1, tzinfo=UTC)

    def test_the_search_text_is_trimmed(self) -> None:
        assert ListQuery.model_validate({"q": " milk "}).filter().text == "milk"
