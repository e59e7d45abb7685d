"""No user can see, change or detect another user's tasks.

Hypothesis generates histories of three users and compares each response with a model.
``ISOLATION_EXAMPLES=1000 pytest test_isolation.py`` runs more histories than the default of 40.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from support.frontend import AUTH_SETTINGS, token_of
from support.service import Service, new_sandbox
from support.tasks import OPTIONAL_MEMBERS
from todo_adapters.postgres.url import DatabaseUrl

Json = dict[str, Any]

EXAMPLES: Final = int(os.environ.get("ISOLATION_EXAMPLES", "40"))  # histories
STEPS: Final = 25  # of a history
UNLIMITED: Final = {"RATE_LIMIT": "off", "RATE_LIMIT_AUTH_FAILURES": "off"}


# --- Users and the models of their tasks --------------------------------------------------------

# Two ids that differ in case only, and one with characters that are special in SQL, URLs and LIKE.
USER_IDS: Final = ("ada {}", "ADA {}", "' OR '1'='1 \"%_\\/../🦉 $1 {}")


@dataclass(frozen=True, slots=True)
class Operation:
    """A request without its path. A ``stale`` request has an ``If-Match`` that cannot match."""

    method: str
    suffix: str = ""
    body: Json | None = None
    stale: bool = False


class User:
    """A user with a frontend, and a model of this user's tasks: their expected JSON by id.

    The ``mark`` is in every title of this user and in no title of another user.
    """

    def __init__(self, service: Service, user_id: str) -> None:
        self.id = user_id
        self.mark = uuid4().hex
        self.live: dict[str, Json] = {}
        self.deleted: dict[str, Json] = {}
        self.created_by: dict[str, tuple[Json, Json]] = {}  # content and task by idempotency key
        self.frontend = service.client(token_of(user_id))

    def send(self, operation: Operation, path: str, **headers: str) -> httpx.Response:
        if operation.stale:
            headers["If-Match"] = '"999999999"'
        return self.frontend.request(
            operation.method,
            path + operation.suffix,
            json=self.marked(operation.body),
            headers=headers,
        )

    def marked(self, body: Json | None) -> Json | None:
        if body is None or "title" not in body:
            return body
        return body | {"title": f"{body['title']} {self.mark}"}

    def check(self, operation: Operation, task_id: str, response: httpx.Response) -> None:
        """Check the response to an operation on a task of this user, and update the model."""
        match operation:
            case Operation("POST", "/restore"):
                self._check_restored(task_id, response)
            case _ if task_id not in self.live:
                assert response.status_code == 404
            case Operation("GET"):
                assert response.json() == self.live[task_id]
            case Operation(stale=True):
                assert response.status_code == 412
            case Operation("DELETE"):
                self.deleted[task_id] = self.live.pop(task_id)
                assert response.json() == self.deleted[task_id]
            case _:
                before = self.live[task_id]
                toggled = {"completed": not before["completed"]}
                changes = self.marked(operation.body) or toggled
                self.live[task_id] = changed(before, changes, response.json())
                assert response.json() == self.live[task_id]

    def _check_restored(self, task_id: str, response: httpx.Response) -> None:
        if task_id in self.live:
            assert response.json()["code"] == "not_deleted"
        else:
            self.live[task_id] = self.deleted.pop(task_id)
            assert response.json() == self.live[task_id]


def created(sent: Json, owner: str, received: Json) -> Json:
    """The expected new task, with the id and time that the service chose."""
    now = received["created_at"]
    task = {"id": received["id"], "user_id": owner, **OPTIONAL_MEMBERS, **sent, "version": 1}
    completed_at = now if task["completed"] else None
    return task | {"created_at": now, "updated_at": now, "completed_at": completed_at}


def changed(before: Json, changes: Json, received: Json) -> Json:
    """The expected task after the changes, with the time that the service chose."""
    after = before | changes
    if after == before:
        return before
    after |= {"updated_at": received["updated_at"], "version": before["version"] + 1}
    if after["completed"] != before["completed"]:
        after["completed_at"] = received["updated_at"] if after["completed"] else None
    return after


def ordered(tasks: Iterable[Json], sort: str = "-created_at") -> list[Json]:
    """The tasks in a documented order: ties by id, tasks without the value last."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")

    def position(task: Json) -> tuple[bool, Any, str]:
        value = None if task[name] is None else COMPARABLE.get(name, str)(task[name])
        return (value is None) != descending, value, task["id"]

    return sorted(tasks, key=position, reverse=descending)


COMPARABLE: Final[dict[str, Callable[[str], object]]] = {
    "title": str.lower,
    "priority": ("low", "medium", "high").index,
    "due_date": lambda due: due if "T" in due else f"{due}T00:00:00.000000Z",
}


def matches(task: Json, query: Json) -> bool:
    """Whether the list with this query contains the task."""
    text = f"{task['title']}\n{task['description'] or ''}".lower()
    wanted = {"pending": [False], "completed": [True]}.get(
        query.get("status", "all"), [False, True]
    )
    return (
        task["completed"] in wanted
        and set(query.get("tag", ())) <= set(task["tags"])
        and query.get("q", "").lower() in text
    )


# --- What users do ------------------------------------------------------------------------------

WORDS: Final = ("milk", "MILK", "100%", "_", "o'hare \"\\", "École", "👩‍👩‍👧‍👦")
TAGS: Final = ("home", "work")
SORTS: Final = ("created_at", "updated_at", "title", "due_date", "priority", "position")

users = st.integers(0, len(USER_IDS) - 1)
others = st.integers(1, len(USER_IDS) - 1)  # the distance to another user

words = st.sampled_from(WORDS)
tag_lists = st.lists(st.sampled_from(TAGS), unique=True)
optional: Final = {
    "description": st.none() | words,
    "completed": st.booleans(),
    "priority": st.sampled_from((None, "low", "medium", "high")),
    "due_date": st.sampled_from((None, "2026-01-20", "2026-01-20T09:30:00.000000Z")),
    "tags": tag_lists,
    "position": st.sampled_from((None, "1", "Z", "a")),
    "repeat": st.none(),  # a completion would create tasks that the model does not know
    "time_zone": st.sampled_from((None, "Europe/Paris")),
}
assert optional.keys() == OPTIONAL_MEMBERS.keys(), "every member of a task is generated"
contents = st.fixed_dictionaries({"title": words}, optional=optional)
changes = st.fixed_dictionaries({}, optional={"title": words, **optional}).filter(bool)
# Every operation on one task.
OPERATIONS: Final = (
    Operation("GET"),
    Operation("PUT", body={"title": "mine"}),
    Operation("PATCH", body={"description": "mine"}),
    Operation("PATCH", body={"description": "mine"}, stale=True),
    Operation("PATCH", "/complete", {}),
    Operation("PATCH", "/complete", {"completed": True}),
    Operation("PATCH", "/complete", {"completed": False}),
    Operation("PATCH", "/complete", {"completed": True}, stale=True),
    Operation("PATCH", "/toggle", {}),
    Operation("DELETE"),
    Operation("DELETE", stale=True),
    Operation("POST", "/restore"),
)
edits = st.builds(Operation, st.sampled_from(("PUT", "PATCH")), body=changes)
operations = edits | st.sampled_from(OPERATIONS)
# Every operation on all tasks of a user.
collective_operations = st.sampled_from(
    (
        Operation("GET"),
        Operation("POST", body={"title": "milk"}),
        Operation("DELETE", "?status=completed"),
    )
)
keys = st.none() | st.sampled_from(("one", "two"))
queries = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(("all", "pending", "completed")),
        "q": words,
        "tag": tag_lists,
        "sort": st.sampled_from([sign + name for name in SORTS for sign in ("", "-")]),
    },
)


def canonical_path(_: User) -> str:
    return "/api/tasks"


def path_with_user_id(user: User) -> str:
    """The path alias that half of all frontends use."""
    return f"/api/{quote(user.id, safe='')}/tasks"


PathOf = Callable[[User], str]
paths = st.sampled_from((canonical_path, path_with_user_id))


class Histories(RuleBasedStateMachine):
    """Users of one service who use their own tasks and try to reach those of the others."""

    tasks = Bundle("tasks")  # the owner and id of each task that was created

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.suffix = uuid4().hex
        self.users = [User(service, user_id.format(self.suffix)) for user_id in USER_IDS]

    def teardown(self) -> None:
        for user in self.users:
            user.frontend.close()

    def send(self, user: User, operation: Operation, path: str, **headers: str) -> httpx.Response:
        """Send a request. Its response must not contain text of another user."""
        response = user.send(operation, path, **headers)
        text = f"{response.headers} {response.text}"
        assert not [other.id for other in self.users if other is not user and other.mark in text]
        return response

    # --- Operations on own tasks ---

    @rule(target=tasks, owner=users, content=contents, key=keys, path_of=paths)
    def create(self, owner: int, content: Json, key: str | None, path_of: PathOf) -> object:
        user = self.users[owner]
        headers = {"Idempotency-Key": key} if key else {}
        response = self.send(user, Operation("POST", body=content), path_of(user), **headers)
        if key in user.created_by:
            first, task = user.created_by[key]
            if OPTIONAL_MEMBERS | first == OPTIONAL_MEMBERS | content:
                assert response.json() == task
            else:
                assert response.json()["code"] == "idempotency_key_reused"
            return multiple()
        task = created(user.marked(content) or {}, user.id, response.json())
        assert (response.status_code, response.json()) == (201, task)
        user.live[task["id"]] = task
        if key:
            user.created_by[key] = content, task
        return owner, task["id"]

    @rule(task=tasks, operation=operations, path_of=paths)
    def use(self, task: tuple[int, str], operation: Operation, path_of: PathOf) -> None:
        owner, task_id = task
        user = self.users[owner]
        response = self.send(user, operation, f"{path_of(user)}/{task_id}")
        user.check(operation, task_id, response)

    @rule(owner=users, path_of=paths)
    def clear_completed(self, owner: int, path_of: PathOf) -> None:
        user = self.users[owner]
        completed = {name: task for name, task in user.live.items() if task["completed"]}
        response = self.send(user, Operation("DELETE", "?status=completed"), path_of(user))
        assert response.json()["deleted"] == len(response.json()["ids"]) == len(completed)
        user.deleted |= completed
        user.live = {name: user.live[name] for name in user.live.keys() - completed}

    @rule(owner=users, query=queries, mark_of=st.none() | users, path_of=paths)
    def search(self, owner: int, query: Json, mark_of: int | None, path_of: PathOf) -> None:
        user = self.users[owner]
        if mark_of is not None:
            query = query | {"q": self.users[mark_of].mark}
        found = [task for task in user.live.values() if matches(task, query)]
        url = httpx.URL(path_of(user), params=query)
        response = self.send(user, Operation("GET"), str(url))
        assert response.json() == ordered(found, query.get("sort", "-created_at"))

    @rule(owner=users, other=others, limit=st.integers(1, 3))
    def page(self, owner: int, other: int, limit: int) -> None:
        """Read every page, while another user tries each cursor."""
        user, stranger = self.users[owner], self.users[(owner + other) % len(self.users)]
        path, found = f"/api/tasks?limit={limit}", []
        while path:
            response = self.send(user, Operation("GET"), path)
            found += response.json()
            path = response.links.get("next", {}).get("url", "")
            if path:
                assert self.send(stranger, Operation("GET"), path).json()["code"] == "bad_cursor"
        assert found == ordered(user.live.values())

    @rule(owner=users)
    def count(self, owner: int) -> None:
        user = self.users[owner]
        me = self.send(user, Operation("GET"), "/api/me").json()
        done = sum(task["completed"] for task in user.live.values())
        total = len(user.live)
        assert me["user_id"] == user.id
        assert me["tasks"] == {"total": total, "completed": done, "pending": total - done}

    # --- Operations on tasks of another user ---

    @rule(task=tasks, other=others, path_of=paths)
    def try_task_of_another_user(self, task: tuple[int, str], other: int, path_of: PathOf) -> None:
        owner, task_id = task
        stranger = self.users[(owner + other) % len(self.users)]
        for operation in OPERATIONS:
            foreign, unknown = (
                observed(
                    self.send(stranger, operation, f"{path_of(stranger)}/{each}", **SAME), each
                )
                for each in (task_id, str(uuid4()))
            )
            assert foreign == unknown
            assert foreign.status == 404

    @rule(task=tasks, other=others, operation=operations)
    def try_task_under_the_id_of_its_owner(
        self, task: tuple[int, str], other: int, operation: Operation
    ) -> None:
        owner, task_id = task
        self.try_user_id(owner, other, operation, f"/{task_id}")

    @rule(owner=users, other=others, operation=collective_operations)
    def try_all_tasks_under_the_id_of_another_user(
        self, owner: int, other: int, operation: Operation
    ) -> None:
        self.try_user_id(owner, other, operation)

    def try_user_id(self, owner: int, other: int, operation: Operation, suffix: str = "") -> None:
        """Use a path with another user's id. The response is the same as for an unknown id."""
        stranger = self.users[(owner + other) % len(self.users)]
        path = path_with_user_id(self.users[owner]) + suffix
        foreign, unknown = (
            observed(self.send(stranger, operation, path.replace(self.suffix, each), **SAME), each)
            for each in (self.suffix, uuid4().hex)
        )
        assert foreign == unknown
        assert foreign.status == 403

    @invariant()
    def every_user_lists_own_tasks_only(self) -> None:
        for user in self.users:
            response = self.send(user, Operation("GET"), "/api/tasks")
            assert response.json() == ordered(user.live.values())


SAME: Final = {"X-Request-ID": "the-same"}
VARYING: Final = {b"date", b"connection"}


@dataclass(frozen=True, slots=True)
class Observed:
    """What a client can see in a response, except for the id that the request named.

    ``Date`` varies, and so does ``Connection``: an error that is sent before the whole body was
    received closes the connection.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def observed(response: httpx.Response, named: str) -> Observed:
    headers = tuple(field for field in response.headers.raw if field[0] not in VARYING)
    body = response.content.replace(named.encode(), b"named")
    return Observed(response.status_code, headers, body)


@pytest.fixture(scope="module")
async def database_url(server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]) -> str:
    await branch("isolated")
    return urlsplit(server_url)._replace(path="/isolated").geturl()


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[Service]:
    with (
        new_sandbox() as sandbox,
        sandbox.serving(
            "serve", DATABASE_URL=database_url, **AUTH_SETTINGS, **UNLIMITED
        ) as service,
    ):
        yield service
        assert '"status":5' not in service.stdout


def test_each_user_sees_the_service_as_if_there_were_no_other_user(service: Service) -> None:
    class HistoriesOfService(Histories):
        def __init__(self) -> None:
            super().__init__(service)

    run_state_machine_as_test(
        HistoriesOfService,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None),
    )
