"""Branches of a Neon project, to run tests on: made, waited for, and deleted when the tests end.

Neon API reference, "Create branch", "Operations", "Retrieve connection URI" and "Delete branch".
What is safe to ask again is said there under "General Error".
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import chain, repeat
from typing import Final, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from todo_adapters.postgres.url import DatabaseUrl, parse_database_url

API: Final = "https://console.neon.tech/api/v2"
LIFETIME: Final = timedelta(hours=1)  # of a branch that nobody is left to delete
PATIENCE: Final = 120.0  # seconds until a branch has to be ready, and again to be deleted
PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before asking again; the last one repeats
POLL_INTERVAL: Final = 1.0
REQUEST_TIMEOUT: Final = 10.0

# Locked by another operation, over the rate limit, unavailable: nothing has been done.
_PASSING: Final = frozenset({423, 429, 503})
_UNFINISHED: Final = frozenset({"scheduling", "running", "cancelling"})
_FINISHED: Final = frozenset({"finished", "skipped"})
_HINTS: Final = {
    401: " Check NEON_API_KEY.",
    403: " Check that the key NEON_API_KEY may change the project NEON_PROJECT_ID.",
    404: " Check NEON_PROJECT_ID.",
}
_KEY: Final = re.compile(r"[!-~]+")


class NeonError(Exception):
    """Why there is no branch, or why one is left: a sentence for a person, without secrets."""


class Clock:
    """The time, and how to let it pass."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Seconds since some moment, whatever is done to the time of day."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


CLOCK: Final = Clock()


@dataclass(frozen=True, slots=True)
class NeonProject:
    """A project, and an API key that may branch it. Raises NeonError for what is no key."""

    id: str
    key: SecretStr
    api: str = API

    def __post_init__(self) -> None:
        # HTTP libraries quote a header that they cannot send.
        if not _KEY.fullmatch(self.key.get_secret_value()):
            raise NeonError("NEON_API_KEY is empty or has what no key has: copy the key again.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "NeonProject | None":
        """The project of NEON_API_KEY and NEON_PROJECT_ID, None unless both are set."""
        project, key = (environ.get(name) for name in ("NEON_PROJECT_ID", "NEON_API_KEY"))
        return cls(project, SecretStr(key)) if project and key else None


@dataclass(frozen=True, slots=True)
class NeonBranch:
    """A branch that is ready: its first database, past the pooler and through it."""

    id: str
    direct: DatabaseUrl
    pooled: DatabaseUrl


@contextmanager
def neon_branch(
    project: NeonProject, *, lifetime: timedelta = LIFETIME, clock: Clock = CLOCK
) -> Iterator[NeonBranch]:
    """A new branch of the project's default branch, deleted when the block ends, however it does.

    Should this process not get to that, Neon does it after ``lifetime`` (at most 30 days). Raises
    NeonError; when the block has failed, a failure to delete becomes a note of that one instead.
    """
    expiry = clock.now().replace(microsecond=0) + lifetime
    with _http(project) as http:
        api = _api(http, clock)
        created = api.create(expiry)
        with _at_the_end(lambda: _api(http, clock).delete(created.branch.id, expiry)):
            api.wait_for(created.operations)
            yield api.connected(created)


@contextmanager
def _at_the_end(delete: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException as failure:
        try:
            delete()
        except NeonError as remains:
            failure.add_note(str(remains))
        raise
    delete()


def _api(http: httpx.Client, clock: Clock) -> "_Api":
    return _Api(http, clock, clock.elapsed() + PATIENCE)


def _http(project: NeonProject) -> httpx.Client:
    return httpx.Client(
        base_url=f"{project.api}/projects/{quote(project.id, safe='')}",
        headers={
            "Authorization": f"Bearer {project.key.get_secret_value()}",
            "Accept": "application/json",
        },
        timeout=REQUEST_TIMEOUT,
        mounts={"all://127.0.0.1": None},  # no proxy leads to a fake on this machine
    )


class _Answer(BaseModel):
    """The members that are read of an answer. A URI that does not fit must not be shown."""

    model_config = ConfigDict(hide_input_in_errors=True)


class _Branch(_Answer):
    id: str


class _Database(_Answer):
    name: str
    owner_name: str


class _Operation(_Answer):
    id: str
    action: str
    status: str
    error: str = ""


class _Created(_Answer):
    branch: _Branch
    databases: list[_Database]
    operations: list[_Operation]


class _Polled(_Answer):
    operation: _Operation


class _ConnectionUri(_Answer):
    uri: str


class _GeneralError(_Answer):
    message: str


_Read = TypeVar("_Read", bound=_Answer)


@dataclass(frozen=True, slots=True)
class _Api:
    """The API as far as it is about one project, asked until ``deadline`` on the clock."""

    http: httpx.Client
    clock: Clock
    deadline: float

    def create(self, expiry: datetime) -> _Created:
        body = {
            "branch": {"expires_at": f"{expiry:%Y-%m-%dT%H:%M:%SZ}"},
            "endpoints": [{"type": "read_write"}],  # without one nothing can connect
        }
        return _read(_Created, self._ask("POST", "/branches", body=body))

    def wait_for(self, operations: Sequence[_Operation]) -> None:
        """Return once every operation has succeeded."""
        for operation in operations:
            ended = self._ended(operation)
            if ended.status not in _FINISHED:
                reason = f": {ended.error}" if ended.error else ""
                raise NeonError(
                    f"Neon's operation {ended.action} ended as {ended.status}{reason}. Try again, "
                    "or see Monitoring, System operations in Neon's console."
                )

    def connected(self, created: _Created) -> NeonBranch:
        """Where to connect to the branch that was created."""
        if not created.databases:
            raise NeonError("The project's default branch has no database: make one there.")
        branch_id, database = created.branch.id, created.databases[0]
        direct = self._address(branch_id, database, pooled=False)
        return NeonBranch(branch_id, direct, self._address(branch_id, database, pooled=True))

    def delete(self, branch_id: str, expiry: datetime) -> None:
        """Return once Neon is deleting the branch or does not have it."""
        try:
            response = self._ask("DELETE", f"/branches/{branch_id}")
            if response.status_code != httpx.codes.NOT_FOUND:
                _checked(response)
        except NeonError as failure:
            raise NeonError(
                f"The branch {branch_id} may be there until it expires at {expiry}: delete it in "
                f"Neon's console. {failure}"
            ) from None

    def _ended(self, operation: _Operation) -> _Operation:
        while operation.status in _UNFINISHED:
            self._wait(POLL_INTERVAL, f"its operation {operation.action} is {operation.status}")
            operation = _read(_Polled, self._ask("GET", f"/operations/{operation.id}")).operation
        return operation

    def _address(self, branch_id: str, database: _Database, *, pooled: bool) -> DatabaseUrl:
        query = {
            "branch_id": branch_id,
            "database_name": database.name,
            "role_name": database.owner_name,
            "pooled": "true" if pooled else "false",
        }
        answer = _read(_ConnectionUri, self._ask("GET", "/connection_uri", params=query))
        return parse_database_url(answer.uri)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        """The first answer that is not a passing one."""
        request = self.http.build_request(method, path, params=params, json=body)
        pauses = chain(PAUSES, repeat(PAUSES[-1]))
        while True:
            response = self._attempt(request)
            if response is not None and response.status_code not in _PASSING:
                return response
            refusal = "nothing" if response is None else _refusal(response)
            asked = 0.0 if response is None else _retry_after(response, self.clock.now())
            self._wait(max(next(pauses), asked), f"it answers {refusal} to {_named(request)}")

    def _attempt(self, request: httpx.Request) -> httpx.Response | None:
        """The answer, None when none came to a request that can be repeated without harm."""
        try:
            return self.http.send(request)
        except httpx.TransportError as failure:
            if request.method == "POST":
                raise NeonError(
                    f"Neon did not answer ({type(failure).__name__}): check the network, then try "
                    "again. If it did make a branch, that one is deleted when it expires."
                ) from None
            return None

    def _wait(self, seconds: float, reason: str) -> None:
        if self.clock.elapsed() + seconds > self.deadline:
            raise NeonError(
                f"Neon was not done within {PATIENCE:.0f} seconds: {reason}. Try again later."
            )
        self.clock.sleep(seconds)


def _read(kind: type[_Read], response: httpx.Response) -> _Read:
    try:
        return kind.model_validate_json(_checked(response).content)
    except ValidationError as failure:
        members = ", ".join(".".join(map(str, error["loc"])) for error in failure.errors())
        raise NeonError(
            f"Neon's answer to {_named(response.request)} is not what its reference describes, see "
            f"{members or 'all of it'}: adapt the client."
        ) from None


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    hint = _HINTS.get(response.status_code, "")
    raise NeonError(f"Neon answers {_refusal(response)} to {_named(response.request)}.{hint}")


def _refusal(response: httpx.Response) -> str:
    """Status and message, with the key blotted out should the message repeat it."""
    try:
        message = _GeneralError.model_validate_json(response.content).message
    except ValidationError:
        return str(response.status_code)
    key = response.request.headers["Authorization"].removeprefix("Bearer ")
    return f"{response.status_code} ({message.replace(key, '…')})"


def _named(request: httpx.Request) -> str:
    return f"{request.method} {request.url.path}"


def _retry_after(response: httpx.Response, now: datetime) -> float:
    """The seconds that the response asks for, 0 if none. Source: RFC 9110, section 10.2.3."""
    value = response.headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value).replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return max(0.0, (moment - now).total_seconds())
