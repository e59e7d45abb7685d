"""The times of imported tasks."""

from datetime import datetime, timedelta
from typing import Final

import pytest

from support.tasks import LATER, NOW, a_task
from todo_domain.batch import StoredTask
from todo_domain.user_data import ExportedTimes, with_times

EARLIER: Final = NOW - timedelta(days=1)
BEFORE: Final = NOW - timedelta(days=2)
NEW: Final = a_task(created_at=LATER, updated_at=LATER)
COMPLETED: Final = a_task(created_at=LATER, updated_at=LATER, completed_at=LATER)


def times_of(stored: StoredTask) -> ExportedTimes:
    task = stored.task
    return {
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "completed_at": task.completed_at,
        "deleted_at": stored.deleted_at,
    }


class TestTimes:
    def test_in_order_are_kept(self) -> None:
        times: ExportedTimes = {
            "created_at": BEFORE,
            "completed_at": EARLIER,
            "updated_at": NOW,
            "deleted_at": LATER,
        }
        assert times_of(with_times(COMPLETED, times, LATER)) == times

    @pytest.mark.parametrize(
        ("sent", "kept"), [(BEFORE, EARLIER), (LATER + timedelta(days=1), LATER)]
    )
    def test_are_between_the_creation_and_now(self, sent: datetime, kept: datetime) -> None:
        times: ExportedTimes = {
            "created_at": EARLIER,
            "updated_at": sent,
            "completed_at": sent,
            "deleted_at": sent,
        }
        found = times_of(with_times(COMPLETED, times, LATER))
        assert found == {**dict.fromkeys(times, kept), "created_at": EARLIER}

    def test_of_a_creation_in_the_future_are_now(self) -> None:
        times = with_times(COMPLETED, {"created_at": LATER + timedelta(days=1)}, LATER)
        assert times_of(times) == times_of(StoredTask(COMPLETED))

    def test_that_are_missing_are_those_of_the_time_before(self) -> None:
        times = with_times(COMPLETED, {"created_at": BEFORE, "updated_at": EARLIER}, LATER)
        assert times.task.completed_at == EARLIER
        times = with_times(COMPLETED, {"created_at": BEFORE}, LATER)
        assert (times.task.updated_at, times.task.completed_at) == (BEFORE, BEFORE)

    def test_of_a_pending_task_have_no_completion(self) -> None:
        assert with_times(NEW, {"completed_at": NOW}, LATER).task.completed_at is None
