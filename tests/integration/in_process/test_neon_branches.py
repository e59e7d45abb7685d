"""The client for Neon branches, against a fake API whose branches are local databases."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
import pytest

from support.fake_neon import PROJECT, FakeNeon, error
from support.neon import LIFETIME, PAUSES, NeonError, neon_branch, neon_client
from support.postgres.round_trips import proxy_before
from support.tasks import a_task
from todo_adapters.postgres.database import Database
from todo_adapters.postgres.schema import migrate
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import parse_database_url

EXPIRY: Final = {"expires_at": f"{datetime.now(UTC) + LIFETIME:%Y-%m-%dT%H:%M:%SZ}"}
READ_WRITE: Final = [{"type": "read_write"}]


@pytest.fixture
async def neon(server_url: str) -> AsyncIterator[FakeNeon]:
    """A project whose branches have to be deleted at the end of the test."""
    neon = FakeNeon(server_url)
    async with neon.http:
        yield neon
    assert neon.branches == {}


async def create(neon: FakeNeon, failure: type[BaseException] | None = None) -> None:
    async with neon_branch(neon.http, sleep=neon.sleep) as branch:
        assert list(neon.branches) == [branch.id]
        if failure:
            raise failure


class TestBranch:
    async def test_is_migrated_directly_and_used_through_the_pooler(self, server_url: str) -> None:
        async with proxy_before(parse_database_url(server_url)) as pooler:
            url = pooler.address.url.set(drivername="postgresql")
            neon = FakeNeon(server_url, pooler=url.render_as_string(hide_password=False))
            async with neon_branch(neon.http, sleep=neon.sleep) as branch:
                await migrate(branch.direct)
                assert pooler.trips == 0
                database = Database(branch.pooled, pool_size=1)
                await PostgresTaskRepository(database).add(a_task())
                assert pooler.trips > 0
                await database.close()

    async def test_is_ready(self, neon: FakeNeon) -> None:
        async with neon_branch(neon.http, sleep=neon.sleep):
            assert not neon.is_busy

    @pytest.mark.parametrize("failure", [AssertionError, KeyboardInterrupt])
    async def test_is_deleted_after_a_failure(
        self, neon: FakeNeon, failure: type[BaseException]
    ) -> None:
        with pytest.raises(failure):
            await create(neon, failure)
        assert neon.branches == {}

    async def test_expires_in_an_hour(self, neon: FakeNeon) -> None:
        async with neon_branch(neon.http, sleep=neon.sleep) as branch:
            left = neon.branches[branch.id] - datetime.now(UTC)
            assert LIFETIME - timedelta(minutes=5) < left <= LIFETIME

    async def test_may_be_gone_before_its_deletion(self, neon: FakeNeon) -> None:
        async with neon_branch(neon.http, sleep=neon.sleep) as branch:
            await neon.http.delete(f"/branches/{branch.id}")


class TestBusyNeon:
    async def test_gets_the_request_again_after_growing_pauses(self, neon: FakeNeon) -> None:
        await create(neon)
        assert neon.requests[:4] == ["POST /branches"] * 4
        assert neon.waits[:3] == [0.5, 1, 2]

    @pytest.mark.parametrize(("header", "waited"), [("17", 17), ("86400", 60), ("soon", 0.5)])
    async def test_gets_the_request_again_after_retry_after(
        self, neon: FakeNeon, header: str, waited: float
    ) -> None:
        neon.next_answers.append(error(429, "too many requests", {"Retry-After": header}))
        await create(neon)
        assert neon.waits[0] == waited

    async def test_is_reported_after_two_minutes(self, neon: FakeNeon) -> None:
        neon.next_answers.extend(error(503, "unavailable") for _ in range(len(PAUSES) + 1))
        with pytest.raises(NeonError, match=r"answers 503 to POST /api/v2/projects/.*/branches"):
            await create(neon)
        assert sum(neon.waits) == pytest.approx(120, abs=5)


class TestFailure:
    async def test_of_an_operation_is_reported(self, neon: FakeNeon) -> None:
        neon.failure = "no space left"
        with pytest.raises(NeonError, match="create_branch is failed: no space left"):
            await create(neon)

    async def test_of_authentication_does_not_show_the_key(self, neon: FakeNeon) -> None:
        stranger = neon_client(PROJECT, "napi_other\n", neon.transport)
        with pytest.raises(NeonError, match="answers 401") as caught:
            await neon_branch(stranger).__aenter__()
        assert "napi" not in str(caught.value)

    async def test_to_answer_a_creation_does_not_repeat_it(self, neon: FakeNeon) -> None:
        neon.next_answers.append(httpx.ReadTimeout("no answer"))
        with pytest.raises(httpx.ReadTimeout):
            await create(neon)
        assert neon.requests == ["POST /branches"]

    async def test_to_delete_names_the_branch(self, server_url: str) -> None:
        neon = FakeNeon(server_url)
        with pytest.raises(NeonError, match=r"answers 403 to DELETE .*/branches/br-"):
            async with neon_branch(neon.http, sleep=neon.sleep):
                neon.next_answers.append(error(403, "forbidden"))


class TestFake:
    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"branch": EXPIRY},
            {"branch": EXPIRY, "endpoints": [{"type": "write"}]},
            {"branch": EXPIRY, "endpoints": READ_WRITE, "size": 1},
            {"branch": {"expires": 1}, "endpoints": READ_WRITE},
            {"branch": {"expires_at": "2126-01-18T10:00:00Z"}, "endpoints": READ_WRITE},
            {"branch": {"expires_at": "2026-01-18T10:00:00"}, "endpoints": READ_WRITE},
        ],
        ids=[
            *("empty", "no endpoint", "read-only endpoint", "unknown member", "unknown option"),
            *("expiry too late", "expiry without offset"),
        ],
    )
    async def test_refuses_a_body_that_neon_refuses(self, neon: FakeNeon, body: object) -> None:
        assert (await neon.http.post("/branches", json=body)).status_code in {400, 422}

    async def test_refuses_a_query_without_a_branch(self, neon: FakeNeon) -> None:
        query = {"database_name": "d", "role_name": "r", "pooled": "true"}
        assert (await neon.http.get("/connection_uri", params=query)).status_code == 404
