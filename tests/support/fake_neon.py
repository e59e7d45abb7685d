"""A stand-in for Neon's API v2, over HTTP, whose branches are databases of a server right here.

It knows what tests need of the Neon API reference ("Create branch", "Delete branch", "Retrieve
connection URI", "Operations", "Branch expiration") and refuses whatever else it is sent. Answers
have the members that the reference shows. About errors it tells their shape, 423, 429 and 503; the
other statuses here are what clients report, or a guess where nobody does.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import asyncpg
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from support.neon import Clock, NeonProject

PROJECT: Final = "spring-example-302709"
KEY: Final = "napi_invented"
LONGEST_LIFE: Final = timedelta(days=30)

_ROOT: Final = f"/api/v2/projects/{PROJECT}"
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

Json = Mapping[str, object]


class StandingClock(Clock):
    """A time that passes only when somebody waits. ``waits`` has how long each time, in seconds."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 18, 9, 30, tzinfo=UTC) + timedelta(seconds=self.elapsed())

    def elapsed(self) -> float:
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; text that is not JSON as it is."""

    status: int
    body: Json | str
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, message: str, **headers: str) -> "Answer":
        """Neon's "General Error". A header's name has _ for -."""
        body = {"request_id": str(uuid4()), "code": "", "message": message}
        return cls(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer.error(status, message)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _EndpointOptions(_Strict):
    type: Literal["read_write"]


class _BranchOptions(_Strict):
    expires_at: AwareDatetime = _NEVER


class _CreateBranch(_Strict):
    branch: _BranchOptions = _BranchOptions()
    endpoints: Annotated[list[_EndpointOptions], Field(max_length=1)] = []


class _WhichUri(_Strict):
    database_name: str
    role_name: str
    branch_id: str  # without it Neon means the default branch, which no test should get
    pooled: Literal["true", "false"] = "false"


_Shape = TypeVar("_Shape", bound=_Strict)


@dataclass(frozen=True, slots=True)
class _Operation:
    """Something that Neon does to the project between two moments."""

    action: str
    branch_id: str
    begin: datetime
    end: datetime
    failure: str | None
    id: str = field(default_factory=lambda: str(uuid4()))

    def status(self, now: datetime) -> str:
        if now < self.begin:
            return "scheduling"
        if now < self.end:
            return "running"
        return "failed" if self.failure else "finished"

    def shown(self, now: datetime) -> Json:
        failed = self.status(now) == "failed"
        return {
            "id": self.id,
            "project_id": PROJECT,
            "branch_id": self.branch_id,
            "action": self.action,
            "status": self.status(now),
            **({"error": self.failure} if failed else {}),
            "failures_count": int(failed),
            "created_at": _time(self.begin),
            "updated_at": _time(now),
            "total_duration_ms": 0,
        }


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch, which is a database, and whether there is an endpoint to connect to."""

    database: str
    created_at: datetime
    expires_at: datetime
    has_endpoint: bool

    @property
    def id(self) -> str:
        return self.database.replace("branch_", "br-")

    def shown(self, state: str, pending: str) -> Json:
        expiry = {
            "expires_at": _time(self.expires_at),
            "ttl_interval_seconds": int((self.expires_at - self.created_at).total_seconds()),
        }
        return {
            "id": self.id,
            "project_id": PROJECT,
            "parent_id": "br-default",
            "name": self.id,
            "current_state": state,
            "pending_state": pending,
            "state_changed_at": _time(self.created_at),
            "creation_source": "console",
            **dict.fromkeys(("primary", "default", "protected"), False),
            **dict.fromkeys(("cpu_used_sec", "compute_time_seconds", "active_time_seconds"), 0),
            **dict.fromkeys(("written_data_bytes", "data_transfer_bytes"), 0),
            **self._times(),
            "init_source": "parent-data",
            **(expiry if self.expires_at < _NEVER else {}),
        }

    def endpoints_shown(self) -> list[Json]:
        endpoint_id, proxy = self.id.replace("br-", "ep-"), "us-east-2.aws.neon.tech"
        endpoint = {
            "host": f"{endpoint_id}.{proxy}",
            "id": endpoint_id,
            "project_id": PROJECT,
            "branch_id": self.id,
            "autoscaling_limit_min_cu": 0.25,
            "autoscaling_limit_max_cu": 2,
            "region_id": "aws-us-east-2",
            "type": "read_write",
            "current_state": "init",
            "pending_state": "active",
            "settings": {},
            "pooler_enabled": False,
            "pooler_mode": "transaction",
            "disabled": False,
            "passwordless_access": True,
            "creation_source": "console",
            **self._times(),
            "proxy_host": proxy,
            "suspend_timeout_seconds": 0,
            "provisioner": "k8s-neonvm",
        }
        return [endpoint] if self.has_endpoint else []

    def role_shown(self, role: str) -> Json:
        return {"branch_id": self.id, "name": role, "protected": False, **self._times()}

    def database_shown(self, owner: str) -> Json:
        names = {"name": self.database, "owner_name": owner}
        return {"id": 1, "branch_id": self.id, **names, **self._times()}

    def _times(self) -> Json:
        return dict.fromkeys(("created_at", "updated_at"), _time(self.created_at))


class FakeNeon:
    """One project, whose default branch is the database ``parent`` of the server at a URL.

    The URIs of its branches lead to that server, or if ``pooler`` is a URL the pooled ones there.
    Without a server there are no databases, and the URIs lead nowhere. Nothing takes time but on
    ``clock``. ``requests`` has what was asked for, below the project's path.
    """

    def __init__(
        self, server: str | None = None, *, parent: str = "template1", pooler: str | None = None
    ) -> None:
        self.clock = StandingClock()
        self.port = 0  # before somebody listens
        self.requests: list[str] = []
        self.operations_take = timedelta(seconds=2)  # each
        self.has_databases = True
        self._server = server
        self._direct = server or "postgresql://postgres@127.0.0.1:1/postgres"
        self._pooler = pooler or self._direct
        self._parent = parent
        self._role = str(urlsplit(self._direct).username)
        self._branches: dict[str, _Branch] = {}
        self._operations: dict[str, _Operation] = {}
        self._next_answers: deque[Answer] = deque()
        self._next_failure: str | None = None
        self._lost: int | None = None  # the request whose answer gets lost

    @property
    def project(self) -> NeonProject:
        """The project and its key, as a client needs them."""
        return NeonProject(PROJECT, SecretStr(KEY), f"http://127.0.0.1:{self.port}/api/v2")

    @property
    def branches(self) -> list[str]:
        """The ids of the branches, without the default one."""
        self._expire()
        return list(self._branches)

    @property
    def is_idle(self) -> bool:
        """Whether every operation has ended."""
        return all(operation.end <= self.clock.now() for operation in self._operations.values())

    def occupy(self, duration: timedelta) -> None:
        """Be busy for so long with an operation that nobody here has asked for."""
        begin = self.clock.now()
        other = _Operation("check_availability", "br-default", begin, begin + duration, None)
        self._operations[other.id] = other

    def answer_next(self, *answers: Answer) -> None:
        """Answer the next requests so, without doing anything."""
        self._next_answers.extend(answers)

    def lose_answer(self, *, after: int = 0) -> None:
        """Do what the next request after so many asks for, but hang up without an answer."""
        self._lost = len(self.requests) + after + 1

    def fail_next_operations(self, reason: str) -> None:
        """Let the operations of the next request end as failed."""
        self._next_failure = reason

    def respond(self, method: str, target: str, headers: Message, body: bytes) -> Answer | None:
        """The answer to a request, None for one that gets lost."""
        url = urlsplit(target)
        self.requests.append(f"{method} {url.path.removeprefix(_ROOT)}")
        if self._next_answers:
            return self._next_answers.popleft()
        self._expire()
        try:
            _refuse_headers(headers, body)
            answer = self._route(method, url.path)(url.query, body)
        except _Refused as refused:
            answer = refused.answer
        return None if len(self.requests) == self._lost else answer

    def _route(self, method: str, path: str) -> Callable[[str, bytes], Answer]:
        if not path.startswith(f"{_ROOT}/"):
            raise _Refused(HTTPStatus.NOT_FOUND, "project not found")
        match [method, *path.removeprefix(f"{_ROOT}/").split("/")]:
            case ["POST", "branches"]:
                return self._create
            case ["DELETE", "branches", branch_id]:
                return partial(self._delete, branch_id)
            case ["GET", "operations", operation_id]:
                return partial(self._show, operation_id)
            case ["GET", "connection_uri"]:
                return self._connection_uri
        raise _Refused(HTTPStatus.NOT_FOUND, "no such route")

    def _create(self, query: str, body: bytes) -> Answer:
        _refuse_query(query)
        asked = _checked(HTTPStatus.BAD_REQUEST, _CreateBranch, body or b"{}")  # none is required
        now, expiry = self.clock.now(), asked.branch.expires_at
        if not (now < expiry <= now + LONGEST_LIFE or expiry == _NEVER):
            message = "expires_at must be within the next 30 days"
            raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
        self._refuse_while_busy()
        branch = _Branch(f"branch_{uuid4().hex[:12]}", now, expiry, bool(asked.endpoints))
        self._execute(f"CREATE DATABASE {branch.database} TEMPLATE {self._parent}")
        self._branches[branch.id] = branch
        actions = ["create_branch", "start_compute"] if asked.endpoints else ["create_branch"]
        databases = [branch.database_shown(self._role)] if self.has_databases else []
        return Answer(
            HTTPStatus.CREATED,
            {
                "branch": branch.shown("init", "ready"),
                "endpoints": branch.endpoints_shown(),
                "operations": self._begun(branch, *actions),
                "roles": [branch.role_shown(self._role)],
                "databases": databases,
            },
        )

    def _delete(self, branch_id: str, query: str, _: bytes) -> Answer:
        _refuse_query(query)
        branch = self._found(branch_id)
        self._refuse_while_busy()
        self._remove(branch)
        return Answer(
            HTTPStatus.OK,
            {
                "branch": branch.shown("ready", "storage_deleted"),
                "operations": self._begun(branch, "suspend_compute", "delete_timeline"),
            },
        )

    def _show(self, operation_id: str, query: str, _: bytes) -> Answer:
        _refuse_query(query)
        if operation_id not in self._operations:
            raise _Refused(HTTPStatus.NOT_FOUND, "operation not found")
        operation = self._operations[operation_id]
        return Answer(HTTPStatus.OK, {"operation": operation.shown(self.clock.now())})

    def _connection_uri(self, query: str, _: bytes) -> Answer:
        members = json.dumps(dict(parse_qsl(query, keep_blank_values=True))).encode()
        asked = _checked(HTTPStatus.UNPROCESSABLE_ENTITY, _WhichUri, members)
        branch = self._found(asked.branch_id)
        if not branch.has_endpoint:
            raise _Refused(HTTPStatus.NOT_FOUND, "branch has no read-write endpoint")
        if (asked.database_name, asked.role_name) != (branch.database, self._role):
            raise _Refused(HTTPStatus.NOT_FOUND, "database or role not found")
        way = self._pooler if asked.pooled == "true" else self._direct
        uri = urlsplit(way)._replace(path=f"/{branch.database}").geturl()
        return Answer(HTTPStatus.OK, {"uri": uri})

    def _found(self, branch_id: str) -> _Branch:
        if branch_id not in self._branches:
            raise _Refused(HTTPStatus.NOT_FOUND, "branch not found")
        return self._branches[branch_id]

    def _refuse_while_busy(self) -> None:
        if not self.is_idle:
            message = "project already has running conflicting operations"
            raise _Refused(HTTPStatus.LOCKED, message)

    def _begun(self, branch: _Branch, *actions: str) -> list[Json]:
        """The operations, one after the other, as they are now."""
        now, takes = self.clock.now(), self.operations_take
        failure, self._next_failure = self._next_failure, None
        operations = [
            _Operation(action, branch.id, now + number * takes, now + (number + 1) * takes, failure)
            for number, action in enumerate(actions)
        ]
        self._operations.update({operation.id: operation for operation in operations})
        return [operation.shown(now) for operation in operations]

    def _expire(self) -> None:
        for branch in list(self._branches.values()):
            if branch.expires_at <= self.clock.now():
                self._remove(branch)

    def _remove(self, branch: _Branch) -> None:
        """Delete it, breaking the connections that there are."""
        self._execute(f"DROP DATABASE {branch.database} WITH (FORCE)")
        del self._branches[branch.id]

    def remove_all(self) -> None:
        """Delete what branches there are."""
        for branch in list(self._branches.values()):
            self._remove(branch)

    def _execute(self, statement: str) -> None:
        if self._server is None:
            return
        # In a thread of its own, because this one may have a running event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _executed(self._server, statement)).result()


class _Handler(BaseHTTPRequestHandler):
    """One connection, with one request."""

    def __init__(self, neon: FakeNeon, *arguments: Any) -> None:  # noqa: ANN401 - the server's
        self._neon = neon
        super().__init__(*arguments)

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self._neon.respond(self.command, self.path, self.headers, body)
        if answer is None:
            return
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _respond  # noqa: N815 - what the base class looks for

    def log_message(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - the base class's
        """Keep quiet."""


@contextmanager
def fake_neon(
    server: str | None = None, *, parent: str = "template1", pooler: str | None = None
) -> Iterator[FakeNeon]:
    """A fake that answers until the block ends, when its branches go too."""
    neon = FakeNeon(server, parent=parent, pooler=pooler)
    with HTTPServer(("127.0.0.1", 0), partial(_Handler, neon)) as http:
        neon.port = http.server_port
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield neon
        finally:
            http.shutdown()
            thread.join()
            neon.remove_all()


async def _executed(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _refuse_headers(headers: Message, body: bytes) -> None:
    if headers.get("Authorization") != f"Bearer {KEY}":
        raise _Refused(HTTPStatus.UNAUTHORIZED, "this request requires authentication")
    if body and headers.get_content_type() != "application/json":
        raise _Refused(HTTPStatus.BAD_REQUEST, "the body is not application/json")


def _refuse_query(query: str) -> None:
    if query:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the query has unknown parameters")


def _checked(status: int, shape: type[_Shape], members: bytes) -> _Shape:
    try:
        return shape.model_validate_json(members)
    except ValidationError as failure:
        found = "; ".join(f"{error['loc']}: {error['msg']}" for error in failure.errors())
        raise _Refused(status, found) from failure


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
