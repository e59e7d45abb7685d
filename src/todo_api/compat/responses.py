"""Members, envelopes and problems as frontends read them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from todo_api.compat.dialects import Dialect
from todo_api.compat.orders import decode_order
from todo_api.compat.recurrence import recurrence_members
from todo_api.compat.requests import COMPLETION_WORDS, Window, camel
from todo_api.problems import FieldError, summarize
from todo_domain.queries import PAGE_MAX

Json = dict[str, Any]

# The spelling of completion that an option keeps.
_ONLY: Final = {
    "only-completed": "completed",
    "only-is_completed": "is_completed",
    "only-status": "status",
}


def task_members(task: Mapping[str, Any], dialect: Dialect, list_url: str) -> Json:
    """A task as the dialect shows it. ``list_url`` is the URL of the list."""
    members = dict(task)
    completed = members["is_completed"] = task["completed"]
    if "status" in dialect:
        members["status"] = COMPLETION_WORDS[completed]
    if "uppercase-status" in dialect:
        members["status"] = COMPLETION_WORDS[completed].upper()
    kept = {_ONLY[option] for option in dialect & _ONLY.keys()}
    for spelling in _ONLY.values() if kept else ():
        if spelling not in kept:
            members.pop(spelling, None)
    if "recurring" in dialect:
        members |= recurrence_members(members.pop("repeat"))
    if "order" in dialect:
        members |= _order(members.pop("position"))
    if "todobackend" in dialect:
        members["url"] = f"{list_url}/{task['id']}"
    if members.get("next"):
        members["next"] = task_members(members["next"], dialect, list_url)
    if "camel" in dialect:
        spelled = {camel(name): value for name, value in members.items()}
        members = members | spelled if "snake" in dialect else spelled
    return members


def _order(position: str | None) -> Json:
    """The order; no member for a position of another client, which the frontend must not clear."""
    order = None if position is None else decode_order(position)
    return {"order": order} if position is None or order is not None else {}


def task_document(task: Mapping[str, Any], dialect: Dialect, list_url: str) -> Json:
    """A single task in the envelope of the dialect."""
    members = task_members(task, dialect, list_url)
    if "success" in dialect:
        return {"success": True, "data": members}
    document = dict(members)
    if "tasks" in dialect:
        document["task"] = members
    if "data" in dialect:
        document["data"] = members
    return document


def has_counts(dialect: Dialect) -> bool:
    """Whether the envelope of a list has the numbers of pending and completed tasks."""
    return "tasks" in dialect


def list_document(
    tasks: Sequence[Mapping[str, Any]],
    dialect: Dialect,
    list_url: str,
    *,
    window: Window | None,
    total: int,
) -> object:
    """A list in the envelope of the dialect. ``tasks`` begin with the first task of page 1."""
    page = tasks if window is None else tasks[window.start : window.stop]
    shown = [task_members(task, dialect, list_url) for task in page]
    document: object = shown
    if has_counts(dialect):
        document = {
            **dict.fromkeys(("tasks", "items", "todos"), shown),
            **dict.fromkeys(("total", "count", "total_count"), total),
            **(_completion_counts(tasks) if total == len(tasks) else {}),
            **_paging(window, total),
        }
    if "success" in dialect:
        return {"success": True, "data": document}
    return {"data": document} if "data" in dialect else document


def _completion_counts(tasks: Sequence[Mapping[str, Any]]) -> Json:
    completed = sum(task["completed"] for task in tasks)
    return {"completed_count": completed, "pending_count": len(tasks) - completed}


def _paging(window: Window | None, total: int) -> Json:
    size = PAGE_MAX if window is None else window.size
    page = 1 if window is None else window.start // size + 1
    return {"page": page, "limit": size, "totalPages": max(1, -(-total // size))}


def other_document(document: object, dialect: Dialect) -> object:
    """A document that is neither a task nor a list."""
    return {"success": True, "data": document} if "success" in dialect else document


def problem_document(
    problem: Mapping[str, Any], dialect: Dialect, spellings: Mapping[str, str]
) -> Json:
    """A problem with the names that the client has sent."""
    document = dict(problem)
    errors: list[FieldError] = problem.get("errors", [])
    spelled = [_spelled(error, spellings) for error in errors]
    if spelled != errors:
        document["errors"] = spelled
        if problem["detail"] == summarize(errors):
            document["detail"] = document["message"] = summarize(spelled)
    if "errors" in dialect:
        document["error"] = {"code": document["code"], "message": document["message"]}
    if "success" in dialect:
        document["success"] = False
    return document


def _spelled(error: FieldError, spellings: Mapping[str, str]) -> FieldError:
    name, dot, rest = error["field"].partition(".")
    spelling = spellings.get(name, name)
    renamed = FieldError(
        field=f"{spelling}{dot}{rest}", code=error["code"], message=error["message"]
    )
    if "pointer" in error:
        renamed["pointer"] = error["pointer"].replace(f"/{name}", f"/{spelling}", 1)
    return renamed
