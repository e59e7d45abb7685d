"""The request code of existing frontends, one row for each: what they send, and what they read.

The facts are from 16 public to-do frontends. A row sends and reads nothing else than its frontend.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

Json = Any
Read = Callable[[Json], Json]


def member(*path: str) -> Read:
    """Reads the member of an object at this path."""

    def read(document: Json) -> Json:
        for name in path:
            document = document[name]
        return document

    return read


def itself(document: Json) -> Json:
    return document


Toggle = Callable[[Json, bool], tuple[str, str, Json]]


def toggle(method: str, suffix: str) -> Toggle:
    """A request that inverts the completion of a task; the frontend sends no body."""
    return lambda _task, _completed: (method, suffix, None)


def complete(
    method: str, suffix: str, name: str, values: Mapping[bool, Json] | None = None
) -> Toggle:
    """A request that sets the completion of a task as the member with this name."""
    return lambda _task, completed: (
        method,
        suffix,
        {name: values[completed] if values else completed},
    )


STATUS: Final = {False: "pending", True: "completed"}


COMPLETED: Final = member("completed")
DETAIL: Final = member("detail")
COMPLETE: Final = toggle("PATCH", "/complete")


@dataclass(frozen=True)
class Frontend:
    """One frontend. The defaults are those of the canonical API."""

    number: str
    options: str | None = None  # of the base path; "" for /compat alone, None for none
    path: str = "/api/tasks"
    tasks: Read = itself  # in the response of a list
    single: Read = itself  # in the response of a single task
    completed: Read = COMPLETED
    due: str = "due_date"
    times: tuple[str, str] = ("created_at", "updated_at")
    owner: str = "user_id"
    toggle: Toggle = COMPLETE
    edit: str = "PUT"
    error: Read = DETAIL
    totals: Mapping[str, Json] = field(default_factory=dict)  # in the list of one pending task
    pending_filter: str = "status=pending"
    priority: str = "high"

    @property
    def base(self) -> str:
        if self.options is None:
            return ""
        return f"/compat/{self.options}" if self.options else "/compat"

    @property
    def list_path(self) -> str:
        return self.base + self.path

    def at(self, task: Json, suffix: str = "") -> str:
        return f"{self.list_path.rstrip('/')}/{task['id']}{suffix}"

    def task(self, response: httpx.Response) -> Json:
        """The task of a response, without the envelope that a flat task has as a member."""
        assert response.is_success, response.text
        task = self.single(response.json())
        return {name: task[name] for name in task if name not in {"task", "data"}}

    async def list(self, user: httpx.AsyncClient, query: str = "") -> Json:
        return self.tasks((await user.get(f"{self.list_path}{query}")).json())

    async def set_completed(self, user: httpx.AsyncClient, task: Json, *, completed: bool) -> Json:
        method, suffix, body = self.toggle(task, completed)
        return self.task(await user.request(method, self.at(task, suffix), json=body))


CAMEL: Final[Any] = {
    "due": "dueDate",
    "times": ("createdAt", "updatedAt"),
    "owner": "userId",
}
OF_THE_USER: Final = "/api/ada/tasks"

FRONTENDS: Final = [
    Frontend("01", "camel", **CAMEL, toggle=toggle("PATCH", "/toggle")),
    Frontend("02", None, f"{OF_THE_USER}/"),
    Frontend(
        "03",
        "",
        "/api/todos",
        completed=member("is_completed"),
        toggle=complete("PATCH", "", "is_completed"),
    ),
    Frontend("04", "", OF_THE_USER, pending_filter="status=incomplete&search=milk"),
    Frontend(
        "05",
        "tasks",
        "/api/v1/tasks",
        member("tasks"),
        member("task"),
        toggle=complete("PATCH", "/complete", "completed"),
        error=member("message"),
    ),
    Frontend(
        "06",
        "tasks+errors",
        OF_THE_USER,
        member("tasks"),
        member("task"),
        error=member("error", "message"),
        totals={"total": 1, "completed_count": 0, "pending_count": 1},
    ),
    Frontend(
        "07",
        "tasks+camel+status",
        "/api/v1/tasks/",
        member("tasks"),
        **CAMEL,
        completed=lambda task: {"pending": False, "completed": True}[task["status"]],
        toggle=complete("PUT", "", "status", STATUS),
        edit="PATCH",
        error=member("message"),
        totals={"total": 1, "page": 1, "limit": 10, "totalPages": 1},
        pending_filter="status=in_progress&page=1&limit=10",
    ),
    Frontend(
        "08",
        "success+tasks",
        "/api/tasks",
        member("data", "tasks"),
        member("data"),
        completed=member("is_completed"),
        error=member("message"),
        priority="someday",
    ),
    Frontend(
        "10",
        "tasks+status",
        "/api/v1/ada/tasks",
        member("items"),
        completed=lambda task: {"pending": False, "completed": True}[task["status"]],
        toggle=complete("PATCH", "", "status", STATUS),
    ),
    Frontend(
        "11",
        "tasks",
        "/api/tasks",
        member("tasks"),
        toggle=lambda _task, _completed: ("PATCH", "/complete", {}),
        pending_filter="is_completed=false",
    ),
    Frontend("12", "tasks", OF_THE_USER, member("tasks"), totals={"count": 1}),
    Frontend("13", ""),
    Frontend(
        "14",
        "data+errors",
        "/api/tasks",
        member("data"),
        member("data"),
        toggle=toggle("PATCH", "/toggle"),
        error=member("error", "message"),
    ),
    Frontend(
        "15",
        "tasks",
        "/api/tasks",
        member("tasks"),
        toggle=complete("PUT", "", "completed"),
        error=member("message"),
    ),
    Frontend("16", "", OF_THE_USER, completed=member("is_completed")),
]
