"""The real service on a real database to which everything happens, under load that keeps a ledger.

Every answer is 2xx, 4xx or 503 with Retry-After, in bounded time; what was acknowledged is found
again and nothing is there twice; and the service mends itself. A table at the end says how.
"""

import asyncio
import json
import sys
import time
from asyncio import StreamWriter
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.ports import own_address
from support.postgres.faults import Network, Server, error_response, network_to, server_in
from support.postgres.pgbouncer import Certificate, PgBouncer, operators_url, pgbouncer_before
from support.service import PATIENCE, Sandbox, Service
from todo_adapters.postgres.database import Database, Timeouts
from todo_adapters.postgres.url import parse_database_url

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is to be killed")

USERS: Final = 8
PAUSE: Final = 0.02  # seconds that a user takes before each request
# The documented deadline of a request, and a second for a machine that is busy with tests.
SLOWEST: Final = 4.0 + 1.0
RECOVERY: Final = 2.0  # seconds, as documented
IDLE: Final = 3.0  # seconds

END_EVERY_CONNECTION: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'todo'"
)
ADMIN_SHUTDOWN: Final = error_response("FATAL", "57P01", "terminating connection")
WAITING_FOR_A_LOCK: Final = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


# --- Users, and what has to be stored for them --------------------------------------------------


class Version(IntEnum):
    """A task's versions, in the order in which the users here write them."""

    ABSENT = 0
    CREATED = 1
    CHANGED = 2
    COMPLETED = 3


@dataclass(slots=True)
class TaskState:
    """What may have become of a task: the version acknowledged last, and one that may follow."""

    number: int
    versions: list[int] = field(default_factory=lambda: [Version.ABSENT])
    url: str = "/api/tasks"
    key: str = field(default_factory=lambda: uuid4().hex)

    @property
    def task_id(self) -> str:
        return self.url.rpartition("/")[2]

    def request(self, version: Version) -> tuple[str, str, dict[str, object]]:
        """Method, URL and body of the write that leads to the version."""
        title, completed = content(self.number, version)
        match version:
            case Version.CREATED:
                return "POST", self.url, {"title": title, "description": str(self.number)}
            case Version.CHANGED:
                return "PATCH", self.url, {"title": title}
            case Version.COMPLETED:
                return "PATCH", f"{self.url}/complete", {"completed": completed}
            case Version.ABSENT:
                return "DELETE", self.url, {}


def content(number: int, version: int) -> tuple[str, bool]:
    """The title of a task at a version, and whether it is completed."""
    title = f"{number} is {'new' if version == Version.CREATED else 'changed'}"
    return title, version == Version.COMPLETED


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request, and when: ``kind`` is 2xx, 4xx, 503 or something worse."""

    user: str
    method: str
    begun: float
    ended: float
    kind: str


class User:
    """Somebody whose frontend makes, reads, changes and deletes tasks, one after the other."""

    def __init__(self, name: str, service: Service, tell: Callable[[Answer], None]) -> None:
        self.name = name
        self.frontend = client(service, name)
        self.states: list[TaskState] = []
        self._tell = tell
        self._copy: dict[str, Any] = {}  # of the tasks, kept by the feed of changes
        self._since = ""

    async def use_a_task(self) -> None:
        """Lead one through its life, or leave it alone as soon as its state is uncertain."""
        await self.pull()
        state = await self.make_a_task()
        steps = [Version.CHANGED, Version.COMPLETED]
        if state.number % 3 == 0:
            steps.append(Version.ABSENT)
        for version in steps:
            await self.read(state)
            if not await self.write(state, version):
                return
        await self.read(state)

    async def make_a_task(self) -> TaskState:
        """Try until it is acknowledged: the idempotency key lets it be made only once."""
        state = self.new_state()
        while not await self.write(state, Version.CREATED):
            pass
        return state

    def new_state(self) -> TaskState:
        self.states.append(TaskState(len(self.states)))
        return self.states[-1]

    async def write(self, state: TaskState, version: Version) -> bool:
        """Whether the write was acknowledged."""
        method, url, body = state.request(version)
        state.versions.append(version)
        success = 201 if method == "POST" else 200
        answer = await self._ask(method, url, success, body=body, key=state.key)
        if answer is None:
            return False
        state.versions = [version]
        state.url = answer.headers.get("location", state.url)
        return True

    async def read(self, state: TaskState) -> None:
        """See that the task is as it was acknowledged last."""
        (version,) = state.versions
        answer = await self._ask("GET", state.url, 200 if version else 404)
        if answer and version:
            assert _described(answer.json()) == (version, *content(state.number, version))

    async def pull(self) -> None:
        """Bring the copy up to date. A page that fails is requested again by the next call."""
        has_more = True
        while has_more:
            answer = await self._ask("GET", f"/api/tasks/changes?since={self._since}", 200)
            if answer is None:
                return
            page = answer.json()
            for change in page["changes"]:
                if change.get("deleted"):
                    self._copy.pop(change["id"], None)
                else:
                    self._copy[change["id"]] = change
            self._since, has_more = page["next"], page["more"]

    async def begin(
        self, state: TaskState, version: Version, *, whole: bool = True
    ) -> StreamWriter:
        """Send the request for a write, or most of it, and have no interest in the answer."""
        method, url, document = state.request(version)
        state.versions.append(version)
        body = json.dumps(document).encode()
        head = (
            f"{method} {url} HTTP/1.1",
            "Host: todo.test",
            f"Authorization: {self.frontend.headers['Authorization']}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        )
        service = self.frontend.base_url
        _, writer = await asyncio.open_connection(service.host, service.port)
        writer.write("\r\n".join((*head, "", "")).encode() + (body if whole else body[:-1]))
        return writer

    async def stored(self) -> dict[int, list[int]]:
        """The versions at which the tasks of each number are there, in the list and in the copy."""
        stored: dict[int, list[int]] = defaultdict(list)
        listed, before = await self._listed(), None
        while listed != before:  # an abandoned request may still be changing a task
            await self.pull()
            listed, before = await self._listed(), listed
        assert self._copy == {task["id"]: task for task in listed}
        for task in listed:
            number, (version, *found) = int(task["description"]), _described(task)
            assert (*found,) == content(number, version)
            stored[number].append(version)
        return stored

    async def _listed(self) -> list[dict[str, Any]]:
        answer = await self.frontend.get("/api/tasks")
        tasks: list[dict[str, Any]] = answer.raise_for_status().json()
        return tasks

    async def _ask(
        self,
        method: str,
        url: str,
        success: int,
        *,
        body: dict[str, object] | None = None,
        key: str = "",
    ) -> httpx.Response | None:
        """The answer, if it is the one for success."""
        await asyncio.sleep(PAUSE)
        begun, answer = time.monotonic(), None
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = await self.frontend.request(method, url, json=body or None, headers=headers)
            kind = _kind(answer, success)
        except httpx.TransportError as failure:
            kind = type(failure).__name__
        self._tell(Answer(self.name, method, begun, time.monotonic(), kind))
        return answer if answer and answer.status_code == success else None


def client(service: Service, user: str | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=service.url,
        headers=as_user(user) if user else {},
        timeout=PATIENCE,
        trust_env=False,
    )


def _described(task: dict[str, Any]) -> tuple[int, str, bool]:
    return task["version"], task["title"], task["completed"]


def _kind(answer: httpx.Response, success: int) -> str:
    if answer.status_code == success:
        return f"{success // 100}xx"
    if answer.status_code == 503 and int(answer.headers.get("retry-after", 0)) > 0:
        return "503"
    return f"{answer.status_code} {answer.text}"


# --- Load, and what came of it ------------------------------------------------------------------


class Load:
    """Users at work until ``stop``, what they were answered, and what is wrong in the end."""

    def __init__(self, service: Service, name: str) -> None:
        self.name = name
        self.users = [User(f"{name} {number}", service, self._hear) for number in range(USERS)]
        self.answers: list[Answer] = []
        self.liveness: list[float] = []  # seconds
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self._service = service
        self._is_over = False
        self._news = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as everybody:
            everybody.create_task(self._watch())
            for user in self.users:
                everybody.create_task(self._work(user))

    @asynccontextmanager
    async def guest(self) -> AsyncIterator[User]:
        """One more user, who does what a test wants."""
        guest = User(f"{self.name}, guest", self._service, self._hear)
        async with guest.frontend:
            yield guest
            await self._compare(guest)

    def stop(self) -> None:
        self._is_over = True

    async def is_served(self, times: int = 3) -> None:
        """Wait until every user has been served so often, by requests from now on."""
        await self._everybody_gets("2xx", times)

    async def is_refused(self, times: int = 1) -> None:
        """Wait until every user has been refused so often, by requests from now on."""
        await self._everybody_gets("503", times)

    async def _everybody_gets(self, kind: str, times: int) -> None:
        now = time.monotonic()

        def have_got_it() -> bool:
            got = Counter(a.user for a in self.answers if a.begun >= now and a.kind == kind)
            return all(got[user.name] >= times for user in self.users)

        async with asyncio.timeout(PATIENCE):
            while not have_got_it():
                self._news.clear()
                await self._news.wait()

    async def _work(self, user: User) -> None:
        async with user.frontend:
            while not self._is_over:
                await user.use_a_task()
            await self._compare(user)

    async def _compare(self, user: User) -> None:
        stored = await user.stored()
        for state in user.states:
            found = stored[state.number] or [Version.ABSENT]
            if len(found) > 1:
                self.doubled.append(f"{user.name}: {state.number} is {found}")
            elif found[0] not in state.versions:
                self.lost.append(f"{user.name}: {state.number} is {found}, not {state.versions}")

    async def _watch(self) -> None:
        """Ask all the time whether the service lives."""
        async with client(self._service) as anybody:
            while not self._is_over:
                begun = time.monotonic()
                assert (await anybody.get("/health/live")).status_code == 200
                self.liveness.append(time.monotonic() - begun)
                await asyncio.sleep(PAUSE)

    def _hear(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._news.set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault did to a load: a line of the table. The times are in seconds."""

    fault: str
    answers: Counter[str]
    acknowledged: int
    lost: list[str]
    doubled: list[str]
    slowest: float
    liveness: float
    recovery: float

    @classmethod
    def of(cls, load: Load, mended: float) -> "Outcome":
        """The outcome of a fault that was over at ``mended``."""
        return cls(
            load.name,
            Counter(answer.kind for answer in load.answers),
            sum(a.kind == "2xx" and a.method != "GET" for a in load.answers),
            load.lost,
            load.doubled,
            max(answer.ended - answer.begun for answer in load.answers),
            max(load.liveness),
            _recovery(load.answers, mended),
        )

    def __str__(self) -> str:
        good = [self.answers[kind] for kind in ("2xx", "4xx", "503")]
        counts = (*good, self.answers.total() - sum(good), self.acknowledged)
        times = (self.slowest, self.liveness, self.recovery)
        return _LINE.format(
            self.fault,
            *counts,
            len(self.lost),
            len(self.doubled),
            *(f"{seconds:.2f}" for seconds in times),
        )


_LINE: Final = "{:28}" + "{:>8}" * 7 + "{:>10}" * 3
_HEADLINE: Final = _LINE.format(
    *("", "2xx", "4xx", "503", "other", "writes", "lost", "doubled"),
    *("slowest s", "liveness", "recovery"),
)


def _recovery(answers: list[Answer], mended: float) -> float:
    """Seconds until every request that began after the fault was served, and one was."""
    after = [answer for answer in answers if answer.begun >= mended]
    failures = [answer.ended for answer in after if answer.kind == "503"]
    first = min(answer.ended for answer in after if answer.kind == "2xx")
    return max([first, *failures]) - mended


class Trials:
    """Faults that are tried on services, and what came of each."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    @asynccontextmanager
    async def under_load(self, service: Service, fault: str) -> AsyncIterator[Load]:
        """Load before, during and after the fault, which is the block; then the promises hold."""
        load, logged = Load(service, fault), len(service.stdout)
        async with asyncio.TaskGroup() as running:
            running.create_task(load.run())
            await load.is_served()
            yield load
            mended = time.monotonic()
            await load.is_served()
            load.stop()
        outcome = Outcome.of(load, mended)
        self.outcomes.append(outcome)
        assert set(outcome.answers) <= {"2xx", "4xx", "503"}
        assert outcome.lost == []
        assert outcome.doubled == []
        assert outcome.slowest <= SLOWEST
        assert outcome.recovery <= RECOVERY
        assert "internal_error" not in service.stdout[logged:]


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """Their outcomes are shown at the end as a table."""
    trials = Trials()
    yield trials
    plugins = request.config.pluginmanager
    capture, terminal = (plugins.get_plugin(n) for n in ("capturemanager", "terminalreporter"))
    assert capture is not None
    assert terminal is not None
    with capture.global_and_fixture_disabled():
        terminal.write_line("")
        for line in (_HEADLINE, *trials.outcomes):
            terminal.write_line(str(line))


# --- The service and what is behind it ----------------------------------------------------------


@pytest.fixture(scope="module")
async def server(sandbox: Sandbox) -> AsyncIterator[Server]:
    async with server_in(sandbox.root / "database") as server:
        yield server


@pytest.fixture(scope="module")
def certificate(sandbox: Sandbox) -> Certificate:
    return Certificate.issued(sandbox.root / "tls", own_address())


@pytest.fixture(scope="module")
async def network(server: Server, certificate: Certificate) -> AsyncIterator[Network]:
    """The network before the server, which speaks TLS in its place."""
    connect = partial(asyncio.open_unix_connection, server.socket)
    async with network_to(connect, certificate.host, 5432, certificate.context()) as network:
        yield network


@pytest.fixture(scope="module")
def database_url(network: Network, certificate: Certificate) -> str:
    """The URL of the database behind the network."""
    return operators_url(certificate, network.port)


@pytest.fixture(scope="module")
def pooler(server: Server, certificate: Certificate) -> Iterator[PgBouncer]:
    with pgbouncer_before(server, certificate) as pooler:
        yield pooler


@asynccontextmanager
async def serving(sandbox: Sandbox, database_url: str, **variables: str) -> AsyncIterator[Service]:
    """The service, which has ten connections unless told otherwise."""
    running = ExitStack()
    variables |= AUTH_SETTINGS | {"DATABASE_URL": database_url, "RATE_LIMIT": "off"}
    service = sandbox.serving("serve", **variables)
    try:  # not in this thread, which has the network to run
        yield await asyncio.to_thread(running.enter_context, service)
    finally:
        await asyncio.to_thread(running.close)


@pytest.fixture(scope="module")
async def service(sandbox: Sandbox, database_url: str) -> AsyncIterator[Service]:
    async with serving(sandbox, database_url) as service:
        yield service


@pytest.fixture(scope="module")
async def pooled_service(sandbox: Sandbox, pooler: PgBouncer) -> AsyncIterator[Service]:
    async with serving(sandbox, pooler.url) as service:
        yield service


# --- What may happen ----------------------------------------------------------------------------


class TestServer:
    async def test_may_end_every_connection(
        self, trials: Trials, service: Service, server: Server
    ) -> None:
        async with trials.under_load(service, "connections ended") as load:
            for _ in range(3):
                await server.fetch(END_EVERY_CONNECTION)
                await load.is_served(1)

    async def test_may_restart(self, trials: Trials, service: Service, server: Server) -> None:
        async with trials.under_load(service, "server restarted"):
            await server.stop()
            await server.start()

    async def test_may_be_killed(self, trials: Trials, service: Service, server: Server) -> None:
        async with trials.under_load(service, "server killed") as load:
            await server.kill()
            await load.is_refused()
            await server.start()

    async def test_may_pause(self, trials: Trials, service: Service, server: Server) -> None:
        async with trials.under_load(service, "server paused") as load:
            server.pause()
            await load.is_refused(2)  # once by a statement, once by a connection
            server.resume()


class TestNetwork:
    async def test_may_fall_silent_and_forget_every_connection(
        self, trials: Trials, service: Service, network: Network
    ) -> None:
        async with trials.under_load(service, "network silent") as load:
            network.die()
            await load.is_refused(2)
            network.revive()


class TestPooler:
    async def test_may_restart(
        self, trials: Trials, pooled_service: Service, pooler: PgBouncer
    ) -> None:
        async with trials.under_load(pooled_service, "pooler restarted") as load:
            pooler.stop()
            await load.is_refused()
            pooler.start()

    async def test_may_lose_its_connections(
        self, trials: Trials, pooled_service: Service, server: Server
    ) -> None:
        async with trials.under_load(pooled_service, "pooler's connections ended") as load:
            for _ in range(3):
                await server.fetch(END_EVERY_CONNECTION)
                await load.is_served(1)


class TestStatement:
    async def test_that_takes_too_long_is_refused_and_does_not_come_true_later(
        self, trials: Trials, service: Service, server: Server
    ) -> None:
        async with trials.under_load(service, "statement too long") as load:
            await refused_for_good(load, server)

    async def test_that_takes_too_long_behind_a_pooler_does_not_come_true_later_either(
        self, trials: Trials, pooled_service: Service, server: Server
    ) -> None:
        async with trials.under_load(pooled_service, "statement too long, pooled") as load:
            await refused_for_good(load, server)

    async def test_that_holds_the_only_connection_makes_the_others_refused(
        self, trials: Trials, sandbox: Sandbox, database_url: str, server: Server
    ) -> None:
        async with (
            serving(sandbox, database_url, DATABASE_POOL_SIZE="1") as service,
            trials.under_load(service, "pool exhausted") as load,
            load.guest() as guest,
        ):
            state = await guest.make_a_task()
            async with locked(server, state), asyncio.TaskGroup() as both:
                everybody_is_refused = both.create_task(load.is_refused())
                while not everybody_is_refused.done():
                    assert not await guest.write(state, Version.CHANGED)


class TestClient:
    async def test_may_leave_at_any_time(
        self, trials: Trials, service: Service, server: Server
    ) -> None:
        async with trials.under_load(service, "clients gone") as load, load.guest() as guest:
            for _ in range(4):  # whose statements are more than there are connections
                state = await guest.make_a_task()
                async with locked(server, state):
                    left = [await guest.begin(state, Version.CHANGED) for _ in range(3)]
                    left.append(await guest.begin(guest.new_state(), Version.CREATED, whole=False))
                    await server.becomes(f"SELECT count(*) = 3 {WAITING_FOR_A_LOCK}")
                    for writer in left:
                        writer.transport.abort()
                await load.is_served(1)


class TestIdleService:
    async def test_serves_at_once_when_its_connections_have_ended(
        self, service: Service, server: Server, network: Network
    ) -> None:
        assert await burst(service, server) == [200] * USERS
        await server.fetch(END_EVERY_CONNECTION)
        await network.idle()
        assert await burst(service, server) == [200] * USERS

    async def test_refuses_once_when_its_connections_were_forgotten(
        self, service: Service, server: Server, network: Network
    ) -> None:
        assert await burst(service, server) == [200] * USERS
        network.die()
        network.revive()
        async with client(service, "ada") as ada:
            assert (await ada.get("/api/tasks")).status_code == 503
        assert await burst(service, server) == [200] * USERS

    async def test_says_nothing_to_the_database(
        self, service: Service, server: Server, network: Network
    ) -> None:
        assert await burst(service, server) == [200] * USERS
        before = network.turns
        async with client(service) as anybody:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE):
                    while True:
                        assert (await anybody.get("/health/live")).status_code == 200
                        await asyncio.sleep(PAUSE)
        assert network.turns == before


class TestConnection:
    """The only one of a pool."""

    @pytest.fixture
    async def database(self, database_url: str) -> AsyncIterator[Database]:
        database = Database(parse_database_url(database_url), pool_size=1)
        await database.check()
        yield database
        await database.close()

    @pytest.fixture
    async def idle_database(self, database_url: str) -> AsyncIterator[Database]:
        """A database whose connection counts as idle for long after every statement."""
        timeouts = Timeouts(probe_after_idle=0.0)
        database = Database(parse_database_url(database_url), pool_size=1, timeouts=timeouts)
        await database.check()
        yield database
        await database.close()

    async def test_that_was_idle_for_long_is_probed_in_one_round_trip(
        self, idle_database: Database, network: Network
    ) -> None:
        assert await network.cost(idle_database.check()) == 1 + 1

    async def test_that_was_idle_for_long_is_replaced_without_an_error_if_it_is_broken(
        self, idle_database: Database, network: Network
    ) -> None:
        network.die()
        network.revive()
        await idle_database.check()

    async def test_is_replaced_without_an_error_when_the_server_has_announced_its_end(
        self, database: Database, network: Network, server: Server
    ) -> None:
        network.tell_clients(ADMIN_SHUTDOWN)
        await server.fetch("SELECT")  # by when that has arrived
        await database.check()

    async def test_goes_to_those_who_wait_in_the_order_of_their_arrival(
        self, database: Database
    ) -> None:
        served = []

        async def use_twice(name: str) -> None:
            for _ in range(2):
                await database.check()
                served.append(name)

        await asyncio.gather(use_twice("ada"), use_twice("eve"))
        assert served == ["ada", "eve", "ada", "eve"]


@asynccontextmanager
async def locked(server: Server, state: TaskState) -> AsyncIterator[None]:
    """Somebody else is about to change the task, and takes their time."""
    async with server.session() as session, session.transaction():
        await session.execute("SELECT FROM todo.tasks WHERE id = $1 FOR UPDATE", state.task_id)
        yield


async def refused_for_good(load: Load, server: Server) -> None:
    """Have somebody change a task that is locked, and see that nothing is left of that."""
    async with load.guest() as guest:
        state = await guest.make_a_task()
        async with locked(server, state):
            assert not await guest.write(state, Version.CHANGED)
            await server.becomes(f"SELECT count(*) = 0 {WAITING_FOR_A_LOCK}")
        state.versions = [Version.CREATED]


async def burst(service: Service, server: Server) -> list[int]:
    """What users get who ask at the same time, so that each needs a connection."""
    async with AsyncExitStack() as opened:
        names = [f"user {number}" for number in range(USERS)]
        users = [await opened.enter_async_context(client(service, name)) for name in names]
        async with server.session() as session, session.transaction():
            await session.execute("LOCK TABLE todo.tasks")
            asking = asyncio.gather(*(user.get("/api/tasks") for user in users))
            await server.becomes(f"SELECT count(*) = {USERS} {WAITING_FOR_A_LOCK}")
        return [answer.status_code for answer in await asking]
