"""Liveness asks nothing; readiness asks every part and names the one that is missing."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.typing import EventDict

from support.http_client import client, served
from todo_api.dependencies import ReadinessCheck
from todo_domain.errors import AuthKeysUnavailable, DatabaseUnavailable, Overloaded, TodoError


async def works() -> None:
    """A part that works."""


def fails(failure: Exception) -> ReadinessCheck:
    """A part that does not."""

    async def check() -> None:
        raise failure

    return check


class Recovering:
    """A part that fails the first time and then works."""

    def __init__(self, failure: TodoError) -> None:
        self._failures = [failure]

    async def __call__(self) -> None:
        if self._failures:
            raise self._failures.pop()


@asynccontextmanager
async def asked(checks: Mapping[str, ReadinessCheck]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(checks=checks) as app, client(app) as stranger:
        yield stranger


@pytest.mark.usefixtures("log")
class TestLive:
    async def test_is_ok_whatever_is_away_behind_the_service(self) -> None:
        bug = RuntimeError("must not be asked")
        async with asked({"database": fails(bug)}) as stranger:
            answer = await stranger.get("/health/live")
        assert (answer.status_code, answer.content) == (200, b'{"status":"ok"}')


class TestReady:
    @pytest.mark.usefixtures("log")
    async def test_is_ok_while_every_part_works(self) -> None:
        async with asked({"database": works, "auth_keys": works}) as stranger:
            answer = await stranger.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}

    @pytest.mark.usefixtures("log")
    @pytest.mark.parametrize(
        ("database", "auth_keys"),
        [
            (DatabaseUnavailable(), None),
            (Overloaded(), None),
            (None, AuthKeysUnavailable()),
            (DatabaseUnavailable(), AuthKeysUnavailable()),
        ],
        ids=lambda failure: type(failure).__name__,
    )
    async def test_is_a_problem_that_says_which_parts_do_not(
        self, database: TodoError | None, auth_keys: TodoError | None
    ) -> None:
        failures = {"database": database, "auth_keys": auth_keys}
        checks = {part: fails(failure) if failure else works for part, failure in failures.items()}
        async with asked(checks) as stranger:
            answer = await stranger.get("/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
        away = [part for part, failure in failures.items() if failure]
        assert [error["field"] for error in answer.json()["errors"]] == away
        assert answer.json()["detail"] == "; ".join(f"{part}: does not answer" for part in away)

    async def test_tells_the_log_alone_why(self, log: list[EventDict]) -> None:
        async with asked({"database": fails(DatabaseUnavailable("db.internal:5432"))}) as stranger:
            answer = await stranger.get("/health/ready")
        assert "internal" not in answer.text
        assert [(e["log_level"], e["reason"]) for e in log if e["event"] == "health.not_ready"] == [
            ("warning", "DatabaseUnavailable")
        ]

    @pytest.mark.usefixtures("log")
    async def test_is_ok_again_as_soon_as_the_part_works(self) -> None:
        async with asked({"database": Recovering(DatabaseUnavailable())}) as stranger:
            statuses = [(await stranger.get("/health/ready")).status_code for _ in range(3)]
        assert statuses == [503, 200, 200]

    @pytest.mark.usefixtures("log")
    async def test_asks_each_part_once_for_a_crowd(self) -> None:
        asked_times = 0
        begun, let_go = asyncio.Event(), asyncio.Event()

        async def check() -> None:
            nonlocal asked_times
            asked_times += 1
            begun.set()
            await let_go.wait()

        async with asked({"database": check}) as stranger:
            crowd = [asyncio.create_task(stranger.get("/health/ready")) for _ in range(10)]
            await begun.wait()
            let_go.set()
            statuses = {(await answer).status_code for answer in crowd}
        assert (statuses, asked_times) == ({200}, 1)
