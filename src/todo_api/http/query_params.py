"""Reads the query string into the Pydantic model that an endpoint declares."""

from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from todo_api.http.field_names import field_names
from todo_api.http.validation_errors import field_errors
from todo_api.problems import ProblemError, refuse_unknown

PARAMETERS_MAX: Final = 120  # 100 ids and every other parameter
_UNIONS: Final = (Union, UnionType)


class QueryModel:
    """Reads the query of an endpoint. The last value of a repeated single parameter counts."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        names = field_names(model)
        self._known = frozenset().union(*names.values())
        self._lists = frozenset().union(
            *(
                names[name]
                for name, field in model.model_fields.items()
                if _is_list(field.annotation)
            )
        )

    def read(self, request: Request, *, is_strict: bool) -> BaseModel:
        """The validated query. If strict, a query with unknown parameters is refused.

        Raises ProblemError (validation_failed, bad_request).
        """
        sent = self._sent(request)
        if is_strict:
            refuse_unknown(sent, self._known, "parameter")
        try:
            return self._model.model_validate(sent)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise ProblemError(
                "validation_failed", errors=field_errors(found, sent, has_pointers=False)
            ) from None

    def _sent(self, request: Request) -> dict[str, Any]:
        sent: dict[str, Any] = {}
        for name, value in query_parameters(request):
            if name in self._lists:
                sent.setdefault(name, []).append(value)
            else:
                sent[name] = value
        return sent


def query_parameters(request: Request) -> list[tuple[str, str]]:
    """The names and values of the query in their order. Raises ProblemError for too many."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise ProblemError(
            "bad_request", f"the query has more than {PARAMETERS_MAX} parameters"
        ) from None


def _is_list(annotation: object) -> bool:
    origin = get_origin(annotation) or annotation
    if origin in _UNIONS:
        return any(_is_list(member) for member in get_args(annotation))
    return (
        isinstance(origin, type)
        and issubclass(origin, Collection)
        and not issubclass(origin, str | bytes | Mapping)
    )
