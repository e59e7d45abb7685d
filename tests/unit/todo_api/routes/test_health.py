"""Liveness runs no checks; readiness runs all checks and names the parts that fail."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from structlog.typing import EventDict

from support.http_client import client, served
from todo_api.dependencies import ReadinessCheck
from todo_api.routes import health
from todo_domain.errors import AuthKeysUnavailable, DatabaseUnavailable, Overloaded, TodoError


async def passes() -> None:
    """A check that passes."""


def fails(failure: Exception) -> ReadinessCheck:
    """A check that fails."""

    async def check() -> None:
        raise failure

    return check


class Recovering:
    """A check that fails once and then passes."""

    def __init__(self, failure: TodoError) -> None:
        self._failures = [failure]

    async def __call__(self) -> None:
        if self._failures:
            raise self._failures.pop()


@asynccontextmanager
async def client_of(checks: Mapping[str, ReadinessCheck]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(checks=checks) as app, client(app) as stranger:
        yield stranger


@pytest.mark.usefixtures("log")
class TestLive:
    async def test_liveness_runs_no_checks(self) -> None:
        bug = RuntimeError("must not be client_of")
        async with client_of({"database": fails(bug)}) as stranger:
            response = await stranger.get("/health/live")
        assert (response.status_code, response.content) == (200, b'{"status":"ok"}')


class TestReady:
    @pytest.mark.usefixtures("log")
    async def test_readiness_is_ok_if_every_check_passes(self) -> None:
        async with client_of({"database": passes, "auth_keys": passes}) as stranger:
            response = await stranger.get("/health/ready")
        assert response.status_code == 200
        assert response.json() == {"status": "ok"}

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
    async def test_readiness_names_the_parts_whose_check_fails(
        self, database: TodoError | None, auth_keys: TodoError | None
    ) -> None:
        failures = {"database": database, "auth_keys": auth_keys}
        checks = {part: fails(failure) if failure else passes for part, failure in failures.items()}
        async with client_of(checks) as stranger:
            response = await stranger.get("/health/ready")
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert response.headers["Content-Type"] == "application/problem+json"
        assert int(response.headers["Retry-After"]) > 0
        failing = [part for part, failure in failures.items() if failure]
        assert [error["field"] for error in response.json()["errors"]] == failing
        assert response.json()["detail"] == "; ".join(
            f"{part}: does not respond" for part in failing
        )

    @pytest.mark.usefixtures("log")
    async def test_readiness_does_not_wait_for_a_check_without_an_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def check() -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(health, "CHECK_TIMEOUT", 0.01)
        async with client_of({"database": check}) as stranger:
            response = await stranger.get("/health/ready")
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")

    async def test_the_reason_of_a_failed_check_is_in_the_log_only(
        self, log: list[EventDict]
    ) -> None:
        async with client_of(
            {"database": fails(DatabaseUnavailable("db.internal:5432"))}
        ) as stranger:
            response = await stranger.get("/health/ready")
        assert "internal" not in response.text
        assert [(e["log_level"], e["reason"]) for e in log if e["event"] == "health.not_ready"] == [
            ("warning", "DatabaseUnavailable")
        ]

    @pytest.mark.usefixtures("log")
    async def test_readiness_is_ok_again_when_the_check_passes(self) -> None:
        async with client_of({"database": Recovering(DatabaseUnavailable())}) as stranger:
            statuses = [(await stranger.get("/health/ready")).status_code for _ in range(3)]
        assert statuses == [503, 200, 200]

    @pytest.mark.usefixtures("log")
    async def test_concurrent_requests_share_one_run_of_the_checks(self) -> None:
        runs = 0
        started, release = asyncio.Event(), asyncio.Event()

        async def check() -> None:
            nonlocal runs
            runs += 1
            started.set()
            await release.wait()

        async with client_of({"database": check}) as stranger:
            requests = [asyncio.create_task(stranger.get("/health/ready")) for _ in range(10)]
            await started.wait()
            release.set()
            statuses = {(await response).status_code for response in requests}
        assert (statuses, runs) == ({200}, 1)
