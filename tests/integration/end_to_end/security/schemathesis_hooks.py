"""What the OpenAPI document cannot say about empty values, for Schemathesis."""

from itertools import chain
from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Whether the failure counts. An accepted empty value does not: it is sent for no value."""
    del context, response
    return not (isinstance(failure, AcceptedNegativeData) and "" in _values(case))


def _values(case: schemathesis.Case[Any]) -> list[object]:
    """The values of the query's parameters and of the body's members."""
    body = case.body if isinstance(case.body, dict) else {}
    sent = chain((case.query or {}).values(), body.values())
    return [item for value in sent for item in (value if isinstance(value, list) else [value])]
