"""Reading a query string into the model that an endpoint declares for it."""

from typing import Any, Final, get_origin
from urllib.parse import parse_qsl

from fastapi._compat import ModelField  # what Dependant.query_params holds; no other name for it
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from todo_api.problems import ProblemError, field_errors, refuse_unknown

PARAMETERS_MAX: Final = 100


class QueryString:
    """How the query of an endpoint is read: a parameter that is no list counts the last time."""

    def __init__(self, param: ModelField) -> None:
        model = param.field_info.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"{param.name}: declare the query by one Pydantic model")
        self._model = model
        self._lists = {
            name
            for name, field in model.model_fields.items()
            if get_origin(field.annotation) is list
        }

    def read(self, request: Request, *, is_strict: bool) -> BaseModel:
        """The validated query; if strict, one without unknown parameters.

        Raises ProblemError (validation_failed, bad_request).
        """
        given = self._given(request)
        if is_strict:
            refuse_unknown(given, self._model.model_fields, "parameter")
        try:
            return self._model.model_validate(given)
        except ValidationError as invalid:
            found = invalid.errors(include_url=False, include_input=False)
            raise ProblemError(
                "validation_failed", errors=field_errors(found, has_pointers=False)
            ) from None

    def _given(self, request: Request) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in parameters(request):
            if name in self._lists:
                given.setdefault(name, []).append(value)
            else:
                given[name] = value
        return given


def parameters(request: Request) -> list[tuple[str, str]]:
    """Names and values in their order. Raises ProblemError if there are too many to be meant."""
    text = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise ProblemError(
            "bad_request", f"the query has more than {PARAMETERS_MAX} parameters"
        ) from None
