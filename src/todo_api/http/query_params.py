"""Reads the query string into the Pydantic model that an endpoint declares."""

import re
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import Request

from todo_api.http.field_names import field_names
from todo_api.http.validation_errors import field_errors
from todo_api.problems import FieldError, ProblemError, refuse_unknown

PARAMETERS_MAX: Final = 120  # 100 ids and every other parameter
_UNIONS: Final = (Union, UnionType)
_INDEX: Final = re.compile(r"\[\d+\]\Z", re.ASCII)
_DIGITS: Final = re.compile(r"-?\d+", re.ASCII)
_NO_NUMBER: Final = object()  # Pydantic refuses it as a number


class QueryModel:
    """Reads the query of an endpoint.

    A parameter has its own name and its aliases, each also in camelCase; a list also with brackets,
    as in ``tag[]`` and ``tag[0]``. An empty value is absent, as a form sends it. The last value of
    a repeated single parameter counts.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._names: dict[str, str] = {}  # of each spelling the name that the model knows
        self._lists: set[str] = set()
        self._numbers: set[str] = set()
        for field, names in field_names(model).items():
            self._add(model.model_fields[field].annotation, *names)

    def _add(self, annotation: object, name: str, *aliases: str) -> None:
        spellings = [s for known in (name, *aliases) for s in (known, to_camel(known))]
        if _is_list(annotation):
            self._lists.add(name)
            spellings += [f"{spelling}[]" for spelling in spellings]
        if _is_number(annotation):
            self._numbers.add(name)
        self._names |= dict.fromkeys(spellings, name)

    def read(self, request: Request, *, is_strict: bool) -> BaseModel:
        """The validated query. If strict, a query with unknown parameters is refused.

        Raises ProblemError (validation_failed, bad_request).
        """
        sent = query_parameters(request)
        if is_strict:
            unknown = dict.fromkeys(name for name, _ in sent if self._name(name) is None)
            refuse_unknown(unknown, (), "parameter")
        values, spellings, errors = self._collect(sent)
        try:
            query = self._model.model_validate(values)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            invalid = field_errors(found, values, has_pointers=False)
            errors += [_as_spelled(field_error, spellings) for field_error in invalid]
        if errors:
            raise ProblemError("validation_failed", errors=errors)
        return query

    def _name(self, spelling: str) -> str | None:
        return self._names.get(spelling) or self._names.get(_INDEX.sub("[]", spelling))

    def _collect(
        self, sent: list[tuple[str, str]]
    ) -> tuple[dict[str, Any], dict[str, str], list[FieldError]]:
        """The values by the model's names, their last spellings, and the contradictions."""
        values: dict[str, Any] = {}
        spellings: dict[str, str] = {}
        errors = []
        for spelling, text in sent:
            name = self._name(spelling) or spelling
            if not text:
                continue
            value = _NO_NUMBER if name in self._numbers and not _DIGITS.fullmatch(text) else text
            if name in self._lists:
                values.setdefault(name, []).append(value)
                continue
            other = spellings.get(name, spelling)
            if other != spelling and values[name] != value:
                errors.append(_contradiction(spelling, other))
            values[name], spellings[name] = value, spelling
        return values, spellings, errors


def _contradiction(spelling: str, other: str) -> FieldError:
    message = f"differs from {other}, which is the same parameter: send one of them"
    return FieldError(field=spelling, code="contradictory", message=message)


def _as_spelled(error: FieldError, spellings: Mapping[str, str]) -> FieldError:
    """The error with the name of the parameter as the client spelled it."""
    name, dot, rest = error["field"].partition(".")
    return {**error, "field": f"{spellings.get(name, name)}{dot}{rest}"}


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


def _is_number(annotation: object) -> bool:
    """Whether the type is int or has int as a part, such as ``list[int]``."""
    return annotation is int or any(map(_is_number, get_args(annotation)))
