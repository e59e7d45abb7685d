"""Pydantic's validation errors as field errors with a code, a message and a JSON pointer."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from todo_api.problems import FieldError, printable
from todo_domain.errors import InvalidValue

# Code and message of Pydantic's error types. Every other type is "invalid" with Pydantic's message.
_MESSAGES: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is unknown"),
    "bool_type": ("wrong_type", "must be true or false"),
    "bool_parsing": ("wrong_type", "must be true or false"),
    "string_type": ("wrong_type", "must be a string"),
    "string_unicode": ("bad_character", "must not contain a lone surrogate"),
    "int_type": ("wrong_type", "must be a whole number"),
    "int_parsing": ("wrong_type", "must be a whole number"),
    "int_from_float": ("wrong_type", "must be a whole number"),
    "float_type": ("wrong_type", "must be a number"),
    "float_parsing": ("wrong_type", "must be a number"),
    "decimal_type": ("wrong_type", "must be a number"),
    "decimal_parsing": ("wrong_type", "must be a number"),
    "list_type": ("wrong_type", "must be an array"),
    "tuple_type": ("wrong_type", "must be an array"),
    "set_type": ("wrong_type", "must be an array"),
    "frozen_set_type": ("wrong_type", "must be an array"),
    "dict_type": ("wrong_type", "must be a JSON object"),
    "model_type": ("wrong_type", "must be a JSON object"),
    "model_attributes_type": ("wrong_type", "must be a JSON object"),
    "dataclass_type": ("wrong_type", "must be a JSON object"),
    "is_instance_of": ("wrong_type", "must be a {class}"),
    "none_required": ("wrong_type", "must be null"),
    "date_type": ("wrong_type", "must be a date like 2026-01-31"),
    "date_parsing": ("bad_date", "must be a date like 2026-01-31"),
    "date_from_datetime_parsing": ("bad_date", "must be a date like 2026-01-31"),
    "datetime_type": ("wrong_type", "must be a date and time like 2026-01-31T09:30:00Z"),
    "datetime_parsing": ("bad_date", "must be a date and time like 2026-01-31T09:30:00Z"),
    "datetime_from_date_parsing": ("bad_date", "must be a date and time like 2026-01-31T09:30:00Z"),
    "uuid_type": ("wrong_type", "must be a UUID"),
    "uuid_parsing": ("bad_format", "must be a UUID"),
    "url_type": ("wrong_type", "must be a URL"),
    "url_parsing": ("bad_format", "must be a URL"),
    "string_pattern_mismatch": ("bad_format", "must match the pattern {pattern}"),
    "string_too_short": ("too_short", "must have at least {min_length} characters"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "too_short": ("too_few", "must have at least {min_length} items"),
    "too_long": ("too_many", "must have at most {max_length} items"),
    "literal_error": ("unknown_value", "must be {expected}"),
    "enum": ("unknown_value", "must be {expected}"),
    "union_tag_invalid": ("unknown_value", "{discriminator} must be one of {expected_tags}"),
    "union_tag_not_found": ("required", "{discriminator} is required"),
    "int_parsing_size": ("out_of_range", "must be a number of reasonable size"),
    "finite_number": ("out_of_range", "must be a finite number"),
    "greater_than": ("out_of_range", "must be more than {gt}"),
    "greater_than_equal": ("out_of_range", "must be {ge} or more"),
    "less_than": ("out_of_range", "must be less than {lt}"),
    "less_than_equal": ("out_of_range", "must be {le} or less"),
    "multiple_of": ("out_of_range", "must be a multiple of {multiple_of}"),
    "decimal_max_digits": ("out_of_range", "must have at most {max_digits} digits"),
    "decimal_max_places": ("out_of_range", "must have at most {decimal_places} decimal places"),
    "value_error": ("invalid", "{error}"),
    "assertion_error": ("invalid", "{error}"),
}
UNKNOWN: Final = object()  # the value is not known: the whole location counts
_SUBJECT: Final = re.compile(r"^.*? should ")


def field_errors(
    errors: Iterable[Mapping[str, Any]],
    sent: object = UNKNOWN,
    *,
    root: str = "",
    has_pointers: bool = True,
) -> list[FieldError]:
    """Field errors for the errors that Pydantic found in ``sent``.

    ``root`` names the field of an error of the whole value. Pointers are for bodies only.
    """
    return [_field_error(error, sent, root, has_pointers=has_pointers) for error in errors]


def _field_error(
    error: Mapping[str, Any], sent: object, root: str, *, has_pointers: bool
) -> FieldError:
    code, message = _code_and_message(error)
    path = [printable(part) for part in (*_path(error, sent), *_path_in_value(error))]
    field = ".".join(path) or root
    if not has_pointers:
        return FieldError(field=field, code=code, message=message)
    return FieldError(field=field, pointer=json_pointer(path), code=code, message=message)


def json_pointer(path: Iterable[str]) -> str:
    """The JSON pointer (RFC 6901) to the value at this path."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _code_and_message(error: Mapping[str, Any]) -> tuple[str, str]:
    context = error.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, InvalidValue):
        return cause.code, cause.message
    code, template = _MESSAGES.get(error["type"], ("invalid", ""))
    try:
        message = template.format(**context)
    except KeyError:  # a validator's own error has the name of one of Pydantic's
        message = ""
    message = message or _SUBJECT.sub("must ", error["msg"])
    return code, message.encode(errors="replace").decode()


def _path_in_value(error: Mapping[str, Any]) -> tuple[str, ...]:
    """The part of the path that only the domain's validator knows."""
    cause = error.get("ctx", {}).get("error")
    return cause.path if isinstance(cause, InvalidValue) else ()


def _path(error: Mapping[str, Any], sent: object) -> list[str]:
    """The part of Pydantic's location that leads through ``sent``.

    Pydantic also puts the names of union members and validators into a location.
    """
    location = error["loc"]
    if sent is UNKNOWN:
        return [str(part) for part in location]
    path = []
    for part in location:
        match sent:
            case dict() if part in sent:
                sent = sent[part]
            case list() if isinstance(part, int) and part < len(sent):
                sent = sent[part]
            case _:
                continue
        path.append(str(part))
    if error["type"] == "missing" and location:
        path.append(str(location[-1]))
    return path
