"""Spellings of members and parameters."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tasks import mixed_tasks
from todo_api.compat.dialects import OPTIONS, split_base_path
from todo_api.compat.orders import ORDER_MAX, ORDER_MIN, encode_order
from todo_api.compat.requests import Window, canonical_members, canonical_query
from todo_api.compat.responses import task_document
from todo_api.http.responses import serialize_task, to_json
from todo_api.problems import FieldError, ProblemError
from todo_domain.task import Task, TaskChanges

PLAIN = frozenset[str]()
ORDER = frozenset({"order"})
MILK = {"title": "Buy milk"}


def refused(body: Mapping[str, object], dialect: frozenset[str] = PLAIN) -> list[FieldError]:
    with pytest.raises(ProblemError) as caught:
        canonical_members({**MILK, **body}, dialect)
    assert caught.value.code == "validation_failed"
    return list(caught.value.errors)


class TestMembers:
    @given(
        task=st.sampled_from(mixed_tasks()),
        position=st.none()
        | st.integers(ORDER_MIN, ORDER_MAX).map(encode_order)
        | st.sampled_from(["a1", "Zz"]),
        options=st.sets(
            st.sampled_from([name for name in OPTIONS if name != "success"]), min_size=1
        ),
    )
    def test_what_a_frontend_reads_and_sends_back_is_the_task(
        self, task: Task, position: str | None, options: set[str]
    ) -> None:
        stored = orjson.loads(to_json(serialize_task(task))) | {"position": position}
        _, dialect, _ = split_base_path(f"/compat/{'+'.join(options)}".encode())
        sent = task_document(stored, dialect, "http://todo.test/api/tasks")
        members, _ = canonical_members(sent, dialect)
        changes = {name: members[name] for name in TaskChanges.__annotations__ if name in members}
        assert stored | changes == stored
        assert changes.keys() >= TaskChanges.__annotations__.keys() - {"position", "repeat"}

    @pytest.mark.parametrize(
        ("sent", "repeat"),
        [
            ({"recurrence_pattern": "weekly"}, {"every": 1, "unit": "week"}),
            ({"is_recurring": True, "recurrence_interval": "Daily"}, {"every": 1, "unit": "day"}),
            ({"recurring": "monthly", "recurringInterval": 3}, {"every": 3, "unit": "month"}),
            ({"isRecurring": True, "recurrencePattern": "yearly"}, {"every": 1, "unit": "year"}),
            ({"is_recurring": False, "recurrence_pattern": "weekly"}, None),
            ({"recurrence_pattern": None}, None),
            ({"recurring": "none", "recurrence_interval": 2}, None),
        ],
    )
    def test_a_recurrence_is_a_rule(
        self, sent: dict[str, object], repeat: dict[str, object] | None
    ) -> None:
        members, _ = canonical_members(sent, PLAIN)
        simple: dict[str, object] = {"on": [], "from": "due", "until": None}
        assert members == {"repeat": repeat and repeat | simple}

    @pytest.mark.parametrize(
        "sent",
        [{"recurrence_pattern": "custom"}, {"recurrence_pattern": "custom", "is_recurring": True}],
    )
    def test_a_custom_recurrence_stays(self, sent: dict[str, object]) -> None:
        assert canonical_members(sent, PLAIN).members == {}

    @pytest.mark.parametrize(
        "sent",
        [
            {"recurrence_pattern": "hourly"},
            {"recurring": "FREQ=SECONDLY"},
            {"recurrence_interval": 2},
            {"is_recurring": True},
        ],
    )
    def test_an_unknown_recurrence_is_refused_with_its_pointer(
        self, sent: dict[str, object]
    ) -> None:
        assert [error["pointer"] for error in refused(sent)] == [f"/{name}" for name in sent]

    def test_the_time_zone_of_a_repeated_time_is_utc_unless_it_is_sent(self) -> None:
        timed = {"due_date": "2026-01-31T09:30:00Z", "recurring": "daily"}
        assert canonical_members(timed, PLAIN).members["time_zone"] == "UTC"
        sent = canonical_members(timed | {"time_zone": "Europe/Paris"}, PLAIN).members
        assert sent["time_zone"] == "Europe/Paris"
        dated = timed | {"due_date": "2026-01-31"}
        assert "time_zone" not in canonical_members(dated, PLAIN).members

    @pytest.mark.parametrize("name", ["completed", "is_completed", "isCompleted", "done"])
    @pytest.mark.parametrize("value", [True, False, None, "yes", 1])
    def test_a_flag_is_the_completion_with_the_same_value(self, name: str, value: object) -> None:
        assert canonical_members({name: value}, PLAIN) == (
            {"completed": value},
            {"completed": name},
        )

    @pytest.mark.parametrize("name", ["status", "completion_status", "completionStatus"])
    @pytest.mark.parametrize(
        ("word", "completed"),
        [
            *[(word, False) for word in ("pending", "PENDING", "incomplete", "active", "todo")],
            *[(word, False) for word in ("in_progress", "In-Progress", "inProgress", "open")],
            *[(word, True) for word in ("completed", "COMPLETED", "Complete", "done", "finished")],
            *[(True, True), (False, False)],
        ],
    )
    def test_a_word_is_the_completion(self, name: str, word: object, completed: bool) -> None:
        assert canonical_members({name: word}, PLAIN).members == {"completed": completed}

    def test_no_status_is_no_member(self) -> None:
        assert canonical_members({**MILK, "status": None}, PLAIN).members == MILK

    def test_an_unknown_word_is_refused_with_its_pointer(self) -> None:
        (error,) = refused({"status": "archived"})
        assert (error["pointer"], error["code"]) == ("/status", "unknown_value")
        assert "pending" in error["message"]

    @pytest.mark.parametrize(
        "body",
        [
            {"completed": True, "is_completed": False},
            {"is_completed": True, "status": "pending"},
            {"done": False, "isCompleted": True},
            {"due_date": "2026-01-31", "dueDate": None},
        ],
        ids=str,
    )
    def test_contradicting_spellings_are_refused_with_both_pointers(
        self, body: dict[str, object]
    ) -> None:
        errors = refused(body)
        assert [error["pointer"] for error in errors] == [f"/{name}" for name in body]
        assert {error["code"] for error in errors} == {"contradictory"}

    @pytest.mark.parametrize(
        "body",
        [
            {"completed": True, "is_completed": True, "status": "COMPLETED"},
            {"due_date": "2026-01-31", "dueDate": "2026-01-31"},
        ],
        ids=str,
    )
    def test_equal_spellings_are_one_member(self, body: dict[str, object]) -> None:
        name, value = next(iter(body.items()))
        assert canonical_members(body, PLAIN).members == {name: value}

    @pytest.mark.parametrize(
        ("sent", "priority"),
        [
            *[("low", "low"), ("HIGH", "high"), ("urgent", "high"), ("Critical", "high")],
            *[("normal", "medium"), ("lowest", "low"), ("none", None), ("", None), (None, None)],
        ],
    )
    def test_a_priority_is_mapped(self, sent: object, priority: str | None) -> None:
        assert canonical_members({"priority": sent}, PLAIN).members == {"priority": priority}

    @pytest.mark.parametrize("sent", ["someday", "P1", 1, True, ["high"]])
    def test_a_priority_of_the_frontends_own_is_dropped(self, sent: object) -> None:
        assert canonical_members({**MILK, "priority": sent}, PLAIN).members == MILK

    @pytest.mark.parametrize("order", [1.5, 1.0, "1", True, [1], ORDER_MAX + 1, ORDER_MIN - 1])
    def test_an_order_that_is_no_whole_number_is_refused_with_its_pointer(
        self, order: object
    ) -> None:
        (error,) = refused({"order": order}, ORDER)
        assert error["pointer"] == "/order"

    def test_an_order_may_be_null(self) -> None:
        assert canonical_members({"order": None}, ORDER).members == {"position": None}

    def test_an_order_is_an_unknown_member_without_the_option(self) -> None:
        assert canonical_members({"order": 1}, PLAIN).members == {"order": 1}


class TestParameters:
    @pytest.mark.parametrize(
        ("sent", "canonical"),
        [
            ("search=milk&sortBy=dueDate", "search=milk&sortBy=dueDate"),
            ("status=incomplete", "status=pending"),
            ("status=in_progress", "status=pending"),
            ("status=COMPLETED", "status=completed"),
            ("filter=finished", "filter=completed"),
            ("completion_status=done", "status=completed"),
            ("completionStatus=Uncompleted", "status=pending"),
            ("status=archived", "status=archived"),
            ("status=all&priority=ALL&search=", "status=all&priority=ALL"),
            ("priority=URGENT", "priority=high"),
            ("priority=someday", "priority=someday"),
            ("tag=a&tag=b", "tag=a&tag=b"),
            ("pageSize=5", "limit=5"),
            ("perPage=5", "limit=5"),
            ("per_page=5", "limit=5"),
            ("q=%F0%9F%A5%9B%20%26", "q=%F0%9F%A5%9B+%26"),
        ],
    )
    def test_a_query_has_its_canonical_form(self, sent: str, canonical: str) -> None:
        query = canonical_query(parse_qsl(sent, keep_blank_values=True), counts=False)
        assert (urlencode(query.parameters), query.window) == (canonical, None)

    @pytest.mark.parametrize(
        ("sent", "counts", "canonical", "window"),
        [
            ("page=1&limit=10", False, "limit=10", Window(0, 10)),
            ("page=3&limit=10", False, "limit=30", Window(20, 30)),
            ("page=3&limit=10", True, "", Window(20, 30)),
            ("limit=10", True, "", Window(0, 10)),
            ("page=1", False, "limit=1000", Window(0, 1000)),
            ("page=10&limit=100", True, "", Window(900, 1000)),
            ("page=10&limit=101", True, "limit=1010", Window(909, 1010)),
            ("cursor=x&page=2&limit=10", True, "cursor=x&page=2&limit=10", None),
            ("page=0&limit=10", False, "limit=0", None),
            ("page=none&limit=10", True, "limit=none", None),
            ("page=2&limit=-1", True, "limit=-1", None),
        ],
    )
    def test_a_page_is_a_window_of_the_first_thousand_tasks(
        self, sent: str, counts: bool, canonical: str, window: Window | None
    ) -> None:
        query = canonical_query(parse_qsl(sent), counts=counts)
        assert (urlencode(query.parameters), query.window) == (canonical, window)
