"""The names under which clients may send the fields of a declared type."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter


def field_names(declared: Any) -> dict[str, frozenset[str]]:  # noqa: ANN401 - any type
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


def _names(name: str, field: Mapping[str, Any]) -> frozenset[str]:
    """An alias is a text; several aliases are a list of paths."""
    alias = field.get("validation_alias", name)
    return frozenset([alias] if isinstance(alias, str) else [path[0] for path in alias])
