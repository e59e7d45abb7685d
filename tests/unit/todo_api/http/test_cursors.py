"""Cursors: a cursor is a position in one list of one user; everything else is refused."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tasks import HOSTILE_TEXTS, NOW, a_task, mixed_tasks
from todo_api.http.cursors import decode_cursor, encode_cursor
from todo_api.problems import ProblemError
from todo_domain.queries import SeekPosition, Sort, SortBy, SortValue, TaskFilter, TaskQuery
from todo_domain.task import Priority

LIST: Final = TaskQuery(TaskFilter(completed=False, tags=("home",)), Sort(SortBy.TITLE))
ID: Final = UUID("0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b")
CURSOR: Final = encode_cursor("ada", LIST, SeekPosition("Buy milk", ID))


def is_refused(cursor: str, owner: str = "ada", query: TaskQuery = LIST) -> bool:
    with pytest.raises(ProblemError) as caught:
        decode_cursor(owner, query, cursor)
    return caught.value.code == "bad_cursor"


def reencoded(change: Callable[[bytes], bytes]) -> str:
    data = urlsafe_b64decode(CURSOR + "=" * (-len(CURSOR) % 4))
    return urlsafe_b64encode(change(data)).decode().rstrip("=")


class TestRoundTrip:
    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("by", SortBy)
    def test_a_decoded_cursor_is_the_position_of_any_task(
        self, by: SortBy, *, descending: bool
    ) -> None:
        query = TaskQuery(sort=Sort(by, descending=descending))
        for task in mixed_tasks():
            position = query.sort.position(task)
            assert decode_cursor("ada", query, encode_cursor("ada", query, position)) == position

    @pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "\u200b"])
    def test_a_cursor_keeps_any_title_and_any_owner(self, text: str) -> None:
        position = SeekPosition(text, ID)
        assert decode_cursor(text, LIST, encode_cursor(text, LIST, position)) == position

    @pytest.mark.parametrize(
        "due",
        [date.min, date.max, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)],
    )
    def test_a_cursor_keeps_the_first_and_the_last_due_date(self, due: date | datetime) -> None:
        query = TaskQuery(sort=Sort(SortBy.DUE_DATE))
        position = query.sort.position(a_task(due_date=due))
        assert decode_cursor("ada", query, encode_cursor("ada", query, position)) == position

    def test_a_cursor_needs_no_escaping_in_a_url(self) -> None:
        assert CURSOR.replace("-", "").replace("_", "").isalnum()

    def test_a_cursor_does_not_depend_on_limit_or_total(self) -> None:
        other_page = replace(LIST, limit=7, with_total=True)
        assert decode_cursor("ada", other_page, CURSOR) == SeekPosition("Buy milk", ID)


class TestBadCursor:
    @pytest.mark.parametrize(
        "query",
        [
            replace(LIST, sort=Sort(SortBy.TITLE, descending=False)),
            replace(LIST, sort=Sort(SortBy.CREATED_AT)),
            replace(LIST, filter=TaskFilter()),
            replace(LIST, filter=replace(LIST.filter, completed=True)),
            replace(LIST, filter=replace(LIST.filter, tags=("work",))),
            replace(LIST, filter=replace(LIST.filter, text="milk")),
            replace(LIST, filter=replace(LIST.filter, priority=Priority.LOW)),
            replace(LIST, filter=replace(LIST.filter, due_after=NOW)),
        ],
    )
    def test_a_cursor_of_another_list_is_refused(self, query: TaskQuery) -> None:
        assert is_refused(CURSOR, query=query)

    @pytest.mark.parametrize("owner", ["eve", "", "Ada", "ada "])
    def test_a_cursor_of_another_user_is_refused(self, owner: str) -> None:
        assert is_refused(CURSOR, owner)

    @pytest.mark.parametrize("at", range(len(CURSOR)))
    def test_a_changed_or_truncated_cursor_is_refused(self, at: int) -> None:
        other = "A" if CURSOR[at] != "A" else "B"
        assert is_refused(CURSOR[:at] + other + CURSOR[at + 1 :])
        assert is_refused(CURSOR[:at])

    @pytest.mark.parametrize(
        "spelling",
        [
            f"{CURSOR}=",
            f" {CURSOR}",
            f"{CURSOR}\n",
            f"{CURSOR[:5]}\n{CURSOR[5:]}",
            f"{CURSOR}AAAA",
            reencoded(lambda data: data + b" "),
            reencoded(lambda data: data.replace(b",", b", ")),
            reencoded(lambda data: data.replace(b"Buy", b"\\u0042uy")),
        ],
    )
    def test_another_spelling_of_the_same_position_is_refused(self, spelling: str) -> None:
        assert is_refused(spelling)

    @pytest.mark.parametrize("cursor", ["", "=", "A", "*", "é", "\0", "null", "W10", "A" * 100_000])
    def test_other_text_is_refused(self, cursor: str) -> None:
        assert is_refused(cursor)

    @given(st.text())
    def test_any_text_is_refused(self, text: str) -> None:
        assert is_refused(text)

    @given(st.binary())
    def test_any_encoded_bytes_are_refused(self, data: bytes) -> None:
        assert is_refused(urlsafe_b64encode(data).decode().rstrip("="))

    @pytest.mark.parametrize(
        ("by", "value"),
        [
            (SortBy.TITLE, "a\0b"),
            (SortBy.TITLE, None),
            (SortBy.TITLE, 1),
            (SortBy.PRIORITY, 0),
            (SortBy.PRIORITY, 4),
            (SortBy.PRIORITY, 2**63),
            (SortBy.PRIORITY, True),
            (SortBy.PRIORITY, "high"),
            (SortBy.POSITION, "a0"),
            (SortBy.POSITION, 1),
            (SortBy.CREATED_AT, None),
            (SortBy.CREATED_AT, "yesterday"),
            (SortBy.CREATED_AT, NOW.replace(tzinfo=None)),
            (SortBy.UPDATED_AT, NOW.replace(tzinfo=None)),
            (SortBy.DUE_DATE, NOW.replace(tzinfo=None)),
            (SortBy.DUE_DATE, datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
        ],
    )
    def test_a_forged_position_that_no_task_can_have_is_refused(
        self, by: SortBy, value: SortValue
    ) -> None:
        # The checksum is not a secret: a client can compute the checksum of any position.
        query = TaskQuery(sort=Sort(by))
        assert is_refused(encode_cursor("ada", query, SeekPosition(value, ID)), query=query)
