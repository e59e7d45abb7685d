"""The authenticated user: claims of the token, counts of tasks, and the log of the user's data."""

from datetime import datetime
from uuid import UUID, uuid4

import httpx
import pytest
from structlog.typing import EventDict

from fakes import InMemoryRateLimiter, InMemoryTaskRepository
from support.http_client import StaticVerifier, client, served
from support.tasks import HOSTILE_TEXTS, LATER, NOW, a_task
from todo_api.rate_limits import PER_USER
from todo_domain.errors import DatabaseUnavailable
from todo_domain.user_data import EXPORT_PAGE, StoredPage


@pytest.mark.usefixtures("log")
class TestMe:
    async def test_me_has_the_claims_of_the_token_and_the_counts(self) -> None:
        tasks = InMemoryTaskRepository()
        for task in (a_task(), a_task(), a_task(completed_at=NOW), a_task(owner="eve")):
            await tasks.add(task)
        tokens = StaticVerifier("ada", name="Ada Lovelace", email="ada@example.com")
        async with served(tasks, tokens) as app, client(app, "any") as ada:
            response = await ada.get("/api/me")
        assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
        assert response.content == (
            b'{"user_id":"ada","name":"Ada Lovelace","email":"ada@example.com",'
            b'"token_expires_at":"2038-01-19T03:14:07.000000Z",'
            b'"tasks":{"total":3,"pending":2,"completed":1}}'
        )

    async def test_a_token_without_name_and_email_gives_null(self) -> None:
        async with served(tokens=StaticVerifier("ada")) as app, client(app, "any") as ada:
            me = (await ada.get("/api/me")).json()
        assert (me["user_id"], me["name"], me["email"]) == ("ada", None, None)

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    async def test_any_text_of_the_token_is_returned_unchanged(self, text: str) -> None:
        tokens = StaticVerifier(text, name=text, email=text)
        async with served(tokens=tokens) as app, client(app, "any") as user:
            me = (await user.get("/api/me")).json()
        assert [me["user_id"], me["name"], me["email"]] == [text] * 3


class TestCounts:
    async def test_counts_are_zero_for_a_user_without_tasks(self, ada: httpx.AsyncClient) -> None:
        me = (await ada.get("/api/me")).json()
        assert me["tasks"] == {"total": 0, "pending": 0, "completed": 0}

    async def test_counts_exclude_deleted_tasks(
        self, ada: httpx.AsyncClient, tasks: InMemoryTaskRepository
    ) -> None:
        task = a_task()
        await tasks.add(task)
        await tasks.delete("ada", task.id, now=LATER)
        assert (await ada.get("/api/me")).json()["tasks"]["total"] == 0
        await tasks.restore("ada", task.id, now=LATER)
        assert (await ada.get("/api/me")).json()["tasks"]["total"] == 1


class TestUserData:
    async def test_calls_are_logged_without_any_text_of_the_user(
        self, ada: httpx.AsyncClient, log: list[EventDict]
    ) -> None:
        await ada.post("/api/me/import", json={"tasks": [{"id": str(uuid4()), "title": "secret"}]})
        await ada.get("/api/me/export", headers={"Accept": "text/csv"})
        await ada.request("DELETE", "/api/me", json={"confirm": "ada"})
        events = [
            {name: entry[name] for name in entry.keys() - {"client", "request_id", "log_level"}}
            for entry in log
            if entry["event"].startswith("user.")
        ]
        assert events == [
            {"event": "user.imported", "user": "ada", "created": 1, "present": 0},
            {"event": "user.exported", "user": "ada", "format": "csv"},
            {"event": "user.erased", "user": "ada", "tasks": 1},
        ]

    @pytest.mark.parametrize(("count", "requests"), [(0, 1), (100, 1), (101, 2), (250, 3)])
    async def test_an_import_counts_as_one_request_for_every_100_tasks(
        self, count: int, requests: int
    ) -> None:
        limiter = InMemoryRateLimiter({PER_USER: {60: 10}})
        body = {"tasks": [{"id": str(uuid4()), "title": "x"} for _ in range(count)]}
        async with served(limiter=limiter) as app, client(app, "ada") as ada:
            response = await ada.post("/api/me/import", json=body)
        assert response.json()["created"] == count
        assert f";r={10 - requests};" in response.headers["RateLimit"]

    async def test_an_import_beyond_the_quota_stores_nothing(self) -> None:
        tasks = InMemoryTaskRepository()
        limiter = InMemoryRateLimiter({PER_USER: {60: 1}})
        body = {"tasks": [{"id": str(uuid4()), "title": "x"} for _ in range(101)]}
        async with served(tasks, limiter=limiter) as app, client(app, "ada") as ada:
            assert (await ada.post("/api/me/import", json=body)).status_code == 429
        assert (await tasks.count("ada")).total == 0

    @pytest.mark.parametrize("pages", [0, 1])
    async def test_an_export_that_fails_is_503_or_breaks_off(
        self, log: list[EventDict], pages: int
    ) -> None:
        tasks = UnreadableRepository(pages)
        for _ in range(EXPORT_PAGE + 1):
            await tasks.add(a_task())
        async with served(tasks) as app, client(app, "ada") as ada:
            if pages == 0:
                assert (await ada.get("/api/me/export")).status_code == 503
                return
            with pytest.raises(RuntimeError, match="response already started"):
                await ada.get("/api/me/export")
        (failure,) = [entry for entry in log if entry["event"] == "user.export_failed"]
        assert failure["reason"] == "DatabaseUnavailable"


class UnreadableRepository(InMemoryTaskRepository):
    """A fake from which only so many pages of an export can be read."""

    def __init__(self, pages: int) -> None:
        super().__init__()
        self._pages = pages

    async def read_stored(
        self, owner: str, *, after: UUID | None, limit: int, now: datetime
    ) -> StoredPage:
        self._pages -= 1
        if self._pages < 0:
            raise DatabaseUnavailable
        return await super().read_stored(owner, after=after, limit=limit, now=now)


class TestRoute:
    async def test_me_needs_a_token(self, stranger: httpx.AsyncClient) -> None:
        response = await stranger.get("/api/me")
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    async def test_me_can_only_be_read_and_erased(
        self, ada: httpx.AsyncClient, method: str
    ) -> None:
        response = await ada.request(method, "/api/me")
        assert (response.status_code, response.headers["Allow"]) == (405, "DELETE, GET, HEAD")
