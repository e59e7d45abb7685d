"""What the OpenAPI document cannot say about lenient input, for Schemathesis."""

import re
from collections.abc import Iterator
from typing import Any, Final

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Whether the failure counts.

    An accepted empty value does not: it is sent for no value. Neither does an accepted id of a new
    task that is no UUID: it is ignored.
    """
    del context, response
    if not isinstance(failure, AcceptedNegativeData):
        return True
    sent = [case.query, case.body, dict(case.headers or {})]
    return not ("" in _values(sent) or _has_ignored_id(case.body))


def _has_ignored_id(body: object) -> bool:
    """Whether the body is a new task with an id that is no UUID, or has such tasks in a batch."""
    if not isinstance(body, dict):
        return False
    operations = body.get("operations")
    tasks = [body, *(o.get("task") for o in operations or [] if isinstance(o, dict))]
    ids = [task["id"] for task in tasks if isinstance(task, dict) and "id" in task]
    return any(not (isinstance(i, str) and _UUID.fullmatch(i)) for i in ids)


def _values(sent: object) -> Iterator[object]:
    """All values in the JSON value that are neither objects nor arrays."""
    match sent:
        case dict():
            yield from _values([*sent.values()])
        case list():
            for item in sent:
                yield from _values(item)
        case _:
            yield sent
