"""The names under which clients send the fields of a declared type."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic import TypeAdapter

# Names that other to-do APIs and frontends use, without case and punctuation.
_SYNONYMS: Final = {
    synonym: name
    for name, synonyms in {
        "title": "name task text todo summary subject label content",
        "description": "desc details detail body note notes comment",
        "completed": "iscompleted complete iscomplete done isdone finished checked status state "
        "completedat completionstatus",
        "priority": "importance urgency level",
        "due_date": "due dueat dueon dueby deadline date",
        "tags": "tag labels label categories category",
        "position": "order rank index sortorder",
    }.items()
    for synonym in synonyms.split()
}
# Names of ``completed`` that the dialects of todo_api.compat understand: of a flag and of a word.
COMPLETION_FLAGS: Final = ("is_completed", "isCompleted", "done")
COMPLETION_STATUSES: Final = ("status", "completion_status", "completionStatus")
_SIMILARITY: Final = 0.75  # of 1; "updated_at" and "due_date" have 0.59
_LENGTH_MAX: Final = 40  # difflib's cost is quadratic


def field_names(declared: Any) -> dict[str, tuple[str, ...]]:  # noqa: ANN401 - any type
    """Each field of a model or TypedDict with its names: aliases, or the field's own name.

    Empty for a type that has no fixed fields, such as a list or a union.
    """
    return {name: _names(name, field) for name, field in _fields(TypeAdapter(declared).core_schema)}


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The fields of a core schema, which may be wrapped in validators and definitions."""
    definitions = {definition["ref"]: definition for definition in schema.get("definitions", ())}
    while "fields" not in schema:
        if "schema_ref" in schema:
            schema = definitions[schema["schema_ref"]]
        elif "schema" in schema:
            schema = schema["schema"]
        else:
            return []
    fields = schema["fields"]
    if isinstance(fields, dict):
        return list(fields.items())
    return [(field["name"], field) for field in fields]  # of a dataclass


def closest_name(name: str, known: Collection[str]) -> str | None:
    """The known name that a client most likely means by another name."""
    plain = "".join(filter(str.isalnum, name[:_LENGTH_MAX])).lower()
    if _SYNONYMS.get(plain) in known:
        return _SYNONYMS[plain]
    return next(iter(get_close_matches(plain, known, 1, _SIMILARITY)), None)


def _names(name: str, field: Mapping[str, Any]) -> tuple[str, ...]:
    """An alias is a text; several aliases are a list of paths."""
    alias = field.get("validation_alias", name)
    return (alias,) if isinstance(alias, str) else tuple(path[0] for path in alias)
