"""The HTTP contract of tasks over the fakes, and what only a fake can be made to do."""

from datetime import datetime

import pytest

from fakes import FakeTokenVerifier
from http_contract import *  # noqa: F403 - its suites, for pytest to collect
from support.http_client import FailingRepository, client, served
from support.tasks import a_task
from todo_api.http.headers import parse_idempotency_key
from todo_api.problems import ProblemError
from todo_domain.errors import StaleVersion
from todo_domain.ownership import Principal


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("suffix", ["complete", "toggle"])
async def test_a_toggle_that_loses_every_race_is_409(suffix: str) -> None:
    tasks = FailingRepository(StaleVersion())
    task = await tasks.add(a_task())
    async with served(tasks) as app, client(app, "ada") as ada:
        answer = await ada.patch(f"/api/tasks/{task.id}/{suffix}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


class CountingVerifier(FakeTokenVerifier):
    """A fake that counts the tokens it verifies."""

    verified = 0

    async def verify(self, token: str, now: datetime) -> Principal:
        self.verified += 1
        return await super().verify(token, now)


@pytest.mark.usefixtures("log")
async def test_a_token_is_verified_once_for_each_request() -> None:
    tokens = CountingVerifier("ada")
    async with served(tokens=tokens) as app, client(app, "ada") as ada:
        created = await ada.post("/api/tasks", json={"title": "Buy milk"})
        await ada.patch(created.headers["Location"], json={"title": "Buy oat milk"})
    assert tokens.verified == 2


def test_a_refused_idempotency_key_is_not_repeated() -> None:
    with pytest.raises(ProblemError) as caught:
        parse_idempotency_key("the secret key")
    assert "secret" not in f"{caught.value} {caught.value.detail}"
