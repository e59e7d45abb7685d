"""The authenticated user: claims of the token, and counts of tasks."""

import httpx
import pytest

from fakes import InMemoryTaskRepository
from support.http_client import StaticVerifier, client, served
from support.tasks import HOSTILE_TEXTS, LATER, NOW, a_task


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


class TestRoute:
    async def test_me_needs_a_token(self, stranger: httpx.AsyncClient) -> None:
        response = await stranger.get("/api/me")
        assert (response.status_code, response.json()["code"]) == (401, "token_missing")

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    async def test_me_can_only_be_read(self, ada: httpx.AsyncClient, method: str) -> None:
        response = await ada.request(method, "/api/me")
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")
