"""Branch databases: the client against a fake Neon whose branches are real, and the whole way."""

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

import httpx
import pytest
from pydantic import SecretStr

from contracts import TaskRepositoryContract
from support.fake_neon import KEY, PROJECT, Answer, FakeNeon, fake_neon
from support.neon import LIFETIME, PATIENCE, NeonBranch, NeonError, NeonProject, neon_branch
from support.round_trips import PostgresProxy, proxy_before
from todo_adapters.postgres.database import Database, Statement
from todo_adapters.postgres.schema import current_revision, migrate, wanted_revision
from todo_adapters.postgres.tasks import PostgresTaskRepository
from todo_adapters.postgres.url import DatabaseUrl, parse_database_url
from todo_domain.ports import TaskRepository
from todo_domain.queries import TaskQuery

READ_WRITE: Final = {"type": "read_write"}


@pytest.fixture
def neon() -> Iterator[FakeNeon]:
    """A Neon for what needs no database."""
    with fake_neon() as neon:
        yield neon


@pytest.fixture
def neon_with_databases(server_url: str) -> Iterator[FakeNeon]:
    with fake_neon(server_url) as neon:
        yield neon


def made(neon: FakeNeon) -> NeonBranch:
    """A branch that was made, and is deleted again."""
    with neon_branch(neon.project, clock=neon.clock) as branch:
        return branch


def refusal(neon: FakeNeon, project: NeonProject | None = None) -> str:
    """Why there is no branch, and why one is left."""
    with (
        pytest.raises(NeonError) as caught,
        neon_branch(project or neon.project, clock=neon.clock),
    ):
        pytest.fail("there is a branch")
    return "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


async def run(address: DatabaseUrl, sql: str) -> list[object]:
    """The first column of what comes of it."""
    database = Database(address, pool_size=1)
    rows = await database.fetch(Statement(sql, ()))
    await database.close()
    return [row[0] for row in rows]


class TestABranch:
    async def test_is_a_database_with_its_parents_data(
        self, server_url: str, empty_database: DatabaseUrl
    ) -> None:
        await run(empty_database, "CREATE TABLE t AS SELECT 'from the parent' AS said")
        with (
            fake_neon(server_url, parent=str(empty_database.url.database)) as neon,
            neon_branch(neon.project, clock=neon.clock) as branch,
        ):
            assert await run(branch.direct, "SELECT said FROM t") == ["from the parent"]
            assert await run(branch.pooled, "SELECT said FROM t") == ["from the parent"]

    def test_is_ready_when_it_is_given(self, neon: FakeNeon) -> None:
        with neon_branch(neon.project, clock=neon.clock):
            assert neon.is_idle

    def test_is_deleted_at_the_end(self, neon: FakeNeon) -> None:
        with neon_branch(neon.project, clock=neon.clock) as branch:
            assert neon.branches == [branch.id]
        assert neon.branches == []

    @pytest.mark.parametrize("failure", [AssertionError, KeyboardInterrupt])
    def test_is_deleted_when_its_user_fails(
        self, neon: FakeNeon, failure: type[BaseException]
    ) -> None:
        with pytest.raises(failure), neon_branch(neon.project, clock=neon.clock):
            raise failure
        assert neon.branches == []

    async def test_is_gone_with_the_connections_to_it(
        self, neon_with_databases: FakeNeon, server_url: str
    ) -> None:
        neon = neon_with_databases
        with neon_branch(neon.project, clock=neon.clock) as branch:
            database = Database(branch.pooled, pool_size=1)
            await database.check()
        await database.close()
        databases = await run(parse_database_url(server_url), "SELECT datname FROM pg_database")
        assert branch.direct.url.database not in databases

    def test_expires_when_nobody_comes_to_delete_it(self, neon: FakeNeon) -> None:
        with pytest.raises(NeonError), neon_branch(neon.project, clock=neon.clock):
            neon.answer_next(Answer.error(403, "not now"))
        neon.clock.sleep(LIFETIME.total_seconds() - neon.clock.elapsed() - 1)
        assert len(neon.branches) == 1
        neon.clock.sleep(1)
        assert neon.branches == []

    def test_that_has_expired_already_needs_no_deleting(self, neon: FakeNeon) -> None:
        with neon_branch(neon.project, clock=neon.clock):
            neon.clock.sleep(LIFETIME.total_seconds())

    def test_that_is_gone_by_its_second_deletion_is_done(self, neon: FakeNeon) -> None:
        with neon_branch(neon.project, clock=neon.clock) as branch:
            neon.lose_answer()
        deletion = f"DELETE /branches/{branch.id}"
        assert neon.requests[-2:] == [deletion, deletion]

    def test_with_a_pooler_has_an_address_through_it_and_one_past_it(self) -> None:
        with fake_neon(pooler="postgresql://ada@localhost:6432/any") as neon:
            branch = made(neon)
        assert branch.pooled.display_name == f"localhost:6432/{branch.direct.url.database}"
        assert branch.direct.display_name != branch.pooled.display_name


class TestABusyNeon:
    def test_is_asked_again_when_another_operation_locks_the_project(self, neon: FakeNeon) -> None:
        neon.occupy(timedelta(seconds=10))
        made(neon)
        assert neon.requests.count("POST /branches") == 6
        assert neon.clock.waits[:5] == [0.5, 1, 2, 4, 8]

    def test_is_asked_again_to_delete_a_branch(self, neon: FakeNeon) -> None:
        with neon_branch(neon.project, clock=neon.clock):
            neon.occupy(timedelta(seconds=10))
        assert neon.branches == []

    def test_is_given_the_time_that_it_asks_for(self, neon: FakeNeon) -> None:
        neon.answer_next(Answer.error(429, "too many requests", Retry_After="17"))
        made(neon)
        assert neon.clock.waits[0] == 17

    @pytest.mark.parametrize("zone", ["GMT", "-0000"])
    def test_is_given_until_the_moment_that_it_asks_for(self, neon: FakeNeon, zone: str) -> None:
        moment = f"Sun, 18 Jan 2026 09:30:17 {zone}"
        neon.answer_next(Answer.error(429, "too many requests", Retry_After=moment))
        made(neon)
        assert neon.clock.waits[0] == 17

    @pytest.mark.parametrize("headers", [{}, {"Retry_After": "soon"}, {"Retry_After": "0"}])
    def test_that_asks_for_no_time_is_given_more_each_time(
        self, neon: FakeNeon, headers: Mapping[str, str]
    ) -> None:
        neon.answer_next(*[Answer.error(429, "too many requests", **headers)] * 7)
        made(neon)
        assert neon.clock.waits[:7] == [0.5, 1, 2, 4, 8, 8, 8]

    def test_is_not_waited_for_longer_than_can_be_waited(self, neon: FakeNeon) -> None:
        neon.answer_next(Answer.error(429, "too many requests", Retry_After="86400"))
        assert refusal(neon) == (
            "Neon was not done within 120 seconds: it answers 429 (too many requests) to POST "
            f"/api/v2/projects/{PROJECT}/branches. Try again later."
        )
        assert neon.clock.waits == []

    def test_is_given_up_when_it_stays_so(self, neon: FakeNeon) -> None:
        neon.occupy(timedelta(days=1))
        assert "it answers 423 (project already has running" in refusal(neon)
        assert PATIENCE - 8 < neon.clock.elapsed() <= PATIENCE

    def test_is_asked_again_when_it_is_unavailable(self, neon: FakeNeon) -> None:
        neon.answer_next(Answer(503, "<html>upstream</html>", {"Content-Type": "text/html"}))
        made(neon)
        assert neon.requests[:2] == ["POST /branches"] * 2


class TestAFailingNeon:
    def test_whose_operation_fails_is_quoted_and_keeps_no_branch(self, neon: FakeNeon) -> None:
        neon.fail_next_operations("no space left")
        assert refusal(neon) == (
            "Neon's operation create_branch ended as failed: no space left. Try again, or see "
            "Monitoring, System operations in Neon's console."
        )
        assert neon.branches == []

    def test_whose_operation_never_ends_keeps_no_branch(self, neon: FakeNeon) -> None:
        neon.operations_take = timedelta(seconds=PATIENCE / 2 + 1)
        assert "its operation start_compute is running" in refusal(neon)
        assert neon.branches == []

    def test_that_loses_the_answer_is_not_asked_for_a_second_branch(self, neon: FakeNeon) -> None:
        neon.lose_answer()
        assert refusal(neon) == (
            "Neon did not answer (RemoteProtocolError): check the network, then try again. If it "
            "did make a branch, that one is deleted when it expires."
        )
        assert neon.requests == ["POST /branches"]

    def test_that_loses_any_other_answer_is_asked_again(self, neon: FakeNeon) -> None:
        neon.lose_answer(after=1)
        made(neon)
        assert neon.requests[1] == neon.requests[2]

    def test_that_answers_something_else_says_what_is_missing(self, neon: FakeNeon) -> None:
        neon.answer_next(Answer(201, {"branch": {"name": "no id"}, "databases": []}))
        assert "see branch.id, operations: adapt the client" in refusal(neon)

    def test_that_is_not_neon_is_told_by_its_answer(self, neon: FakeNeon) -> None:
        neon.answer_next(Answer(200, "<html>Welcome to the hotel's network</html>"))
        assert "is not what its reference describes, see all of it" in refusal(neon)

    def test_that_cannot_be_reached_is_told_at_once(self, neon: FakeNeon) -> None:
        nowhere = NeonProject(PROJECT, SecretStr(KEY), "http://127.0.0.1:1/api/v2")
        assert refusal(neon, nowhere).startswith("Neon did not answer (ConnectError)")
        assert neon.clock.waits == []

    def test_that_does_not_delete_a_branch_says_how_long_it_stays(self, neon: FakeNeon) -> None:
        with (
            pytest.raises(NeonError) as caught,
            neon_branch(neon.project, clock=neon.clock) as branch,
        ):
            neon.answer_next(Answer.error(403, "not now"))
        assert str(caught.value) == (
            f"The branch {branch.id} may be there until it expires at 2026-01-18 10:30:00+00:00: "
            "delete it in Neon's console. Neon answers 403 (not now) to DELETE "
            f"/api/v2/projects/{PROJECT}/branches/{branch.id}. Check that the key NEON_API_KEY may "
            "change the project NEON_PROJECT_ID."
        )

    def test_that_does_not_delete_a_branch_does_not_hide_why_its_user_failed(
        self, neon: FakeNeon
    ) -> None:
        def fail() -> None:
            neon.answer_next(Answer.error(403, "not now"))
            raise ZeroDivisionError

        with (
            pytest.raises(ZeroDivisionError) as caught,
            neon_branch(neon.project, clock=neon.clock),
        ):
            fail()
        assert "may be there until it expires" in caught.value.__notes__[0]


class TestAProject:
    def test_comes_from_two_variables(self) -> None:
        both = {"NEON_PROJECT_ID": PROJECT, "NEON_API_KEY": KEY}
        assert NeonProject.from_environment(both) == NeonProject(PROJECT, SecretStr(KEY))

    @pytest.mark.parametrize("missing", ["NEON_PROJECT_ID", "NEON_API_KEY"])
    def test_needs_both_variables(self, missing: str) -> None:
        both = {"NEON_PROJECT_ID": PROJECT, "NEON_API_KEY": KEY}
        assert NeonProject.from_environment({**both, missing: ""}) is None

    def test_with_another_key_is_refused_with_advice(self, neon: FakeNeon) -> None:
        stranger = NeonProject(PROJECT, SecretStr("napi_other"), neon.project.api)
        assert refusal(neon, stranger).endswith("/branches. Check NEON_API_KEY.")

    def test_that_is_unknown_is_refused_with_advice(self, neon: FakeNeon) -> None:
        unknown = NeonProject("no/where", SecretStr(KEY), neon.project.api)
        assert refusal(neon, unknown).endswith("/branches. Check NEON_PROJECT_ID.")

    def test_without_a_database_is_refused_and_keeps_no_branch(self, neon: FakeNeon) -> None:
        neon.has_databases = False
        assert refusal(neon) == "The project's default branch has no database: make one there."
        assert neon.branches == []


class TestTheKey:
    SECRET: Final = "napi_of_somebody"

    def test_is_in_no_error_and_no_log(
        self, neon: FakeNeon, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        project = NeonProject(PROJECT, SecretStr(self.SECRET), neon.project.api)
        neon.answer_next(
            Answer.error(429, f"slow down, {self.SECRET}"),
            Answer.error(401, f"who is {self.SECRET}?"),
        )
        with pytest.raises(NeonError) as caught, neon_branch(project, clock=neon.clock):
            pytest.fail("there is a branch")
        assert "who is …?" in str(caught.value)
        assert self.SECRET not in "".join(traceback.format_exception(caught.value))
        assert self.SECRET not in caplog.text

    def test_is_in_no_representation(self, neon: FakeNeon) -> None:
        assert KEY not in repr(neon.project)

    @pytest.mark.parametrize("spoilt", ["napi_of\n", " napi_of", "napi_öf", ""])
    def test_that_cannot_be_sent_is_refused_unseen(self, spoilt: str) -> None:
        with pytest.raises(NeonError, match="copy the key again") as caught:
            NeonProject(PROJECT, SecretStr(spoilt))
        assert "napi" not in str(caught.value)


class TestTheFake:
    """Refuses what Neon would refuse, so that the client cannot get used to less."""

    @pytest.fixture
    def client(self, neon: FakeNeon) -> Iterator[httpx.Client]:
        with httpx.Client(
            base_url=f"{neon.project.api}/projects/{PROJECT}",
            headers={"Authorization": f"Bearer {KEY}"},
            trust_env=False,
        ) as client:
            yield client

    @pytest.mark.parametrize(
        "body",
        [
            [],
            {"endpoint": READ_WRITE},
            {"endpoints": READ_WRITE},
            {"endpoints": [{}]},
            {"endpoints": [{"type": "write"}]},
            {"endpoints": [{"type": "read_write", "size": 1}]},
            {"branch": {"expire_at": "2026-01-18T10:00:00Z"}},
            {"branch": {"expires_at": "2026-01-18T10:00:00"}},
            {"branch": {"expires_at": 1768730400}},
            {"branch": {"expires_at": None}},
        ],
        ids=str,
    )
    def test_refuses_a_body_of_another_shape(
        self, client: httpx.Client, neon: FakeNeon, body: object
    ) -> None:
        answer = client.post("/branches", json=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"request_id", "code", "message"}
        assert neon.branches == []

    @pytest.mark.parametrize(
        "branch",
        [
            {"expires_at": "2026-01-18T09:30:00Z"},
            {"expires_at": "2026-02-17T09:30:01Z"},
        ],
    )
    def test_refuses_an_expiry_that_has_passed_or_is_beyond_thirty_days(
        self, client: httpx.Client, branch: Mapping[str, str]
    ) -> None:
        assert client.post("/branches", json={"branch": branch}).status_code == 422

    def test_makes_a_branch_that_nobody_can_connect_to_without_endpoints(
        self, client: httpx.Client
    ) -> None:
        created = client.post("/branches").json()
        assert created["endpoints"] == []
        database = created["databases"][0]
        query = {
            "branch_id": created["branch"]["id"],
            "database_name": database["name"],
            "role_name": database["owner_name"],
        }
        assert client.get("/connection_uri", params=query).status_code == 404
        assert "expires_at" not in created["branch"]

    def test_runs_operations_one_after_the_other_until_they_are_finished(
        self, client: httpx.Client, neon: FakeNeon
    ) -> None:
        operations = client.post("/branches", json={"endpoints": [READ_WRITE]}).json()["operations"]

        def statuses() -> list[str]:
            answers = [client.get(f"/operations/{operation['id']}") for operation in operations]
            return [answer.json()["operation"]["status"] for answer in answers]

        assert statuses() == ["running", "scheduling"]
        neon.clock.sleep(2)
        assert statuses() == ["finished", "running"]
        neon.clock.sleep(2)
        assert statuses() == ["finished", "finished"]

    @pytest.mark.parametrize(
        "query",
        [
            {},
            {"database_name": "d", "role_name": "r"},
            {"branch_id": "b", "role_name": "r"},
            {"branch_id": "b", "database_name": "d"},
            {"branch_id": "b", "database_name": "d", "role_name": "r", "pooled": "yes"},
            {"branch_id": "b", "database_name": "d", "role_name": "r", "pool": "true"},
        ],
        ids=str,
    )
    def test_refuses_a_query_of_another_shape(
        self, client: httpx.Client, query: Mapping[str, str]
    ) -> None:
        assert client.get("/connection_uri", params=query).status_code == 422

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("DELETE", "/branches/br-unknown"),
            ("GET", "/operations/00000000-0000-0000-0000-000000000000"),
            ("GET", "/connection_uri?branch_id=br-unknown&database_name=d&role_name=r"),
            ("GET", "/branches/br-unknown"),
        ],
    )
    def test_finds_nothing_that_is_not_there(
        self, client: httpx.Client, method: str, path: str
    ) -> None:
        assert client.request(method, path).status_code == 404

    def test_refuses_who_has_no_key(self, client: httpx.Client) -> None:
        del client.headers["Authorization"]
        assert client.post("/branches").status_code == 401


@pytest.fixture(scope="module")
async def pooler(server_url: str) -> AsyncIterator[PostgresProxy]:
    async with proxy_before(parse_database_url(server_url)) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def pooling_neon(server_url: str, pooler: PostgresProxy) -> Iterator[FakeNeon]:
    url = pooler.address.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with fake_neon(server_url, pooler=url) as neon:
        yield neon


@pytest.fixture(scope="module")
async def migrated(pooling_neon: FakeNeon, pooler: PostgresProxy) -> AsyncIterator[NeonBranch]:
    with neon_branch(pooling_neon.project, clock=pooling_neon.clock) as branch:
        await migrate(branch.direct)
        assert pooler.trips == 0
        yield branch
    assert pooling_neon.branches == []


@pytest.fixture(scope="module")
async def migrated_database(migrated: NeonBranch) -> AsyncIterator[Database]:
    database = Database(migrated.pooled, pool_size=10)
    yield database
    await database.close()


class TestTheWholeWay(TaskRepositoryContract):
    """A branch is made, migrated past its pooler, used through it, and deleted."""

    @pytest.fixture
    async def tasks(
        self, migrated_database: Database, erase: Callable[[Database], Awaitable[object]]
    ) -> AsyncIterator[TaskRepository]:
        yield PostgresTaskRepository(migrated_database)
        await erase(migrated_database)

    async def test_leads_through_the_pooler(
        self, tasks: TaskRepository, pooler: PostgresProxy
    ) -> None:
        assert await pooler.cost(tasks.find("ada", TaskQuery())) > 0

    async def test_leads_to_the_newest_schema(self, migrated: NeonBranch) -> None:
        assert await current_revision(migrated.pooled) == wanted_revision()

    async def test_leaves_no_branch_when_it_fails_half_way(
        self, neon_with_databases: FakeNeon
    ) -> None:
        neon = neon_with_databases
        with suppress(AssertionError), neon_branch(neon.project, clock=neon.clock) as branch:
            await migrate(branch.direct)
            raise AssertionError
        assert neon.branches == []
