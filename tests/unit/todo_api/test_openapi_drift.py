"""docs/openapi.json is the app's document and is compatible with the last release."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.programs import require

Json = dict[str, Any]

ROOT: Final = Path(__file__).parents[3]
COMMITTED: Final = "docs/openapi.json"


def breaking_changes(before: Json, after: Json) -> Iterator[str]:
    """The changes that break a client that was generated from the document before.

    Bounds such as maxLength are not compared.
    """
    before, after = resolved(before, before), resolved(after, after)
    for path, methods in before["paths"].items():
        for method, old in methods.items():
            where = f"{method.upper()} {path}"
            new = after["paths"].get(path, {}).get(method)
            if new is None:
                yield f"{where} is gone"
                continue
            for change in (*lost_parameters(old, new), *lost_bodies(old, new)):
                yield f"{where}: {change}"


def lost_parameters(before: Json, after: Json) -> Iterator[str]:
    old, new = parameters(before), parameters(after)
    for name in sorted(old.keys() - new.keys()):
        yield f"{name} is gone"
    for name, parameter in new.items():
        was_required = old.get(name, {}).get("required", False)
        if parameter.get("required", False) and not was_required:
            yield f"{name} is required"
    for name in sorted(old.keys() & new.keys()):
        yield from refused(old[name]["schema"], new[name]["schema"], name)


def lost_bodies(before: Json, after: Json) -> Iterator[str]:
    takes, took = (contents(op.get("requestBody", {})) for op in (after, before))
    for media_type in took:
        if media_type not in takes:
            yield f"{media_type} is not taken"
        else:
            yield from refused(took[media_type], takes[media_type], "body")
    for status, response in before["responses"].items():
        responses, answered = contents(after["responses"].get(status, {})), contents(response)
        for media_type in answered:
            if media_type not in responses:
                yield f"{status} {media_type} is gone"
            else:
                yield from missed(answered[media_type], responses[media_type], status)


def refused(before: Json, after: Json, where: str) -> Iterator[str]:
    """The values that the schema before allowed to send and the schema after does not."""
    for kind in sorted(types(before) - types(after)):
        yield f"{where} cannot be {kind}"
    old, new = values(before), values(after)
    if new and (not old or not old <= new):
        yield f"{where} has fewer values"
    for name in sorted(required(after) - required(before)):
        yield f"{where}.{name} is required"
    yield from members(before, after, where, refused)


def missed(before: Json, after: Json, where: str) -> Iterator[str]:
    """The values that a client can receive and the schema before excluded."""
    for kind in sorted(types(after) - types(before)):
        yield f"{where} can be {kind}"
    for name in sorted(required(before) & properties(after).keys() - required(after)):
        yield f"{where}.{name} can be absent"
    yield from members(before, after, where, missed)


def members(
    before: Json, after: Json, where: str, compare: Callable[[Json, Json, str], Iterator[str]]
) -> Iterator[str]:
    old, new = properties(before), properties(after)
    for name in old:
        if name not in new:
            yield f"{where}.{name} is gone"
        else:
            yield from compare(old[name], new[name], f"{where}.{name}")
    if "items" in before and "items" in after:
        yield from compare(before["items"], after["items"], f"{where}[]")


def resolved(node: Any, document: Json) -> Any:  # noqa: ANN401 - any JSON
    """The node with its references resolved."""
    if isinstance(node, list):
        return [resolved(item, document) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        target: Any = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return resolved(target, document)
    return {name: resolved(value, document) for name, value in node.items()}


def parameters(operation: Json) -> dict[str, Json]:
    return {f"{p['in']} {p['name']}": p for p in operation.get("parameters", ())}


def contents(body: Json) -> dict[str, Json]:
    return {name: content["schema"] for name, content in body.get("content", {}).items()}


def properties(schema: Json) -> dict[str, Json]:
    found: dict[str, Json] = schema.get("properties", {})
    return found


def required(schema: Json) -> set[str]:
    return set(schema.get("required", ()))


def variants(schema: Json) -> list[Json]:
    """The alternative schemas; one of them has to match."""
    return [{**schema, **variant} for variant in schema.get("anyOf", [{}])]


def types(schema: Json) -> set[str]:
    kinds = [variant.get("type", ()) for variant in variants(schema)]
    return {name for kind in kinds for name in ([kind] if isinstance(kind, str) else kind)}


def values(schema: Json) -> set[str]:
    """The allowed values; empty if every value is allowed."""
    found = [v.get("enum", [v["const"]] if "const" in v else []) for v in variants(schema)]
    return {str(value) for some in found for value in some}


def may_break(before: Json, after: Json) -> bool:
    """Whether the new version allows breaking changes: a new major version, or 0.x to 0.y."""
    old, new = (document["info"]["version"].split(".") for document in (before, after))
    return bool(old[0] != new[0] or (old[0] == "0" and old[1] != new[1]))


def released() -> Json:
    """The document of the last release. Skips the test before the first release."""
    described = git("describe", "--tags", "--abbrev=0")
    shown = git("show", f"{described.stdout.strip()}:{COMMITTED}")
    if described.returncode or shown.returncode:
        pytest.skip("there is no release yet whose clients could break")
    document: Json = json.loads(shown.stdout)
    return document


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [require("git"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def committed() -> Json:
    document: Json = json.loads((ROOT / COMMITTED).read_text())
    return document


async def test_the_committed_document_is_the_apps(
    committed: Json, stranger: httpx.AsyncClient
) -> None:
    served = (await stranger.get("/openapi.json")).json()
    assert committed == served, "run `make openapi`"


def test_the_committed_document_breaks_no_client_of_the_last_release(committed: Json) -> None:
    before = released()
    assert may_break(before, committed) or list(breaking_changes(before, committed)) == []


NEW: Final = {
    "type": "object",
    "required": ["title"],
    "properties": {
        "title": {"type": "string"},
        "priority": {"anyOf": [{"type": "string", "enum": ["low", "high"]}, {"type": "null"}]},
    },
}
TASK: Final = {
    "type": "object",
    "required": ["id", "title"],
    "properties": {
        "id": {"type": "string"},
        "title": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


def a_document() -> Json:
    """A new document with one path."""
    sort = {"name": "sort", "in": "query", "schema": {"type": "string", "enum": ["id", "title"]}}
    task = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Task"}}}}
    new = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/New"}}}}
    post = {"parameters": [sort], "requestBody": new, "responses": {"201": task}}
    document: Json = json.loads(
        json.dumps(
            {
                "info": {"version": "1.2.3"},
                "paths": {"/tasks": {"post": post, "get": {"responses": {"200": task}}}},
                "components": {"schemas": {"Task": TASK, "New": NEW}},
            }
        )
    )
    return document


def changed(path_in_document: str, value: object) -> Json:
    """The document with another value at this path, or without the value if it is None."""
    document = a_document()
    node: Any = document
    *parents, last = path_in_document.split()
    for step in parents:
        node = node[int(step) if isinstance(node, list) else step]
    if isinstance(node, list):
        node[int(last) :] = [] if value is None else [value]
    elif value is None:
        del node[last]
    else:
        node[last] = value
    return document


IN_NEW: Final = "components schemas New properties"
IN_TASK: Final = "components schemas Task properties"
POST: Final = "paths /tasks post"


@pytest.mark.parametrize(
    ("path_in_document", "value", "expected"),
    [
        ("paths /tasks", None, ["POST /tasks is gone", "GET /tasks is gone"]),
        ("paths /tasks get", None, ["GET /tasks is gone"]),
        (f"{POST} parameters 0", None, ["POST /tasks: query sort is gone"]),
        (f"{POST} parameters 0 required", True, ["POST /tasks: query sort is required"]),
        (
            f"{POST} parameters 0 schema enum",
            ["id"],
            ["POST /tasks: query sort has fewer values"],
        ),
        (
            f"{POST} parameters 0 schema type",
            "integer",
            ["POST /tasks: query sort cannot be string"],
        ),
        (
            f"{POST} requestBody content application/json",
            None,
            ["POST /tasks: application/json is not taken"],
        ),
        (
            "components schemas New required",
            ["title", "priority"],
            ["POST /tasks: body.priority is required"],
        ),
        (f"{IN_NEW} priority", None, ["POST /tasks: body.priority is gone"]),
        (
            f"{IN_NEW} priority",
            {"type": "string", "enum": ["low", "high"]},
            ["POST /tasks: body.priority cannot be null"],
        ),
        (f"{IN_NEW} title enum", ["Milk"], ["POST /tasks: body.title has fewer values"]),
        (f"{POST} responses 201", None, ["POST /tasks: 201 application/json is gone"]),
        (
            f"{IN_TASK} title",
            None,
            ["POST /tasks: 201.title is gone", "GET /tasks: 200.title is gone"],
        ),
        (
            "components schemas Task required",
            ["id"],
            ["POST /tasks: 201.title can be absent", "GET /tasks: 200.title can be absent"],
        ),
        (
            f"{IN_TASK} tags items type",
            ["string", "null"],
            ["POST /tasks: 201.tags[] can be null", "GET /tasks: 200.tags[] can be null"],
        ),
    ],
)
def test_a_breaking_change_is_found(
    path_in_document: str, value: object, expected: list[str]
) -> None:
    assert list(breaking_changes(a_document(), changed(path_in_document, value))) == expected


@pytest.mark.parametrize(
    ("path_in_document", "value"),
    [
        ("paths /lists", {"get": {"responses": {}}}),
        ("paths /tasks delete", {"responses": {}}),
        (f"{POST} parameters 1", {"name": "q", "in": "query", "schema": {}}),
        (f"{POST} parameters 0 schema enum", ["id", "title", "due_date"]),
        (f"{POST} responses 422", {"content": {}}),
        ("components schemas New required", []),
        (f"{IN_NEW} tags", {"type": "array"}),
        (f"{IN_NEW} title type", ["string", "null"]),
        (f"{IN_TASK} due_date", {"type": "string"}),
        (f"{IN_TASK} tags maxItems", 20),
    ],
)
def test_an_addition_is_not_a_breaking_change(path_in_document: str, value: object) -> None:
    assert list(breaking_changes(a_document(), changed(path_in_document, value))) == []


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("1.2.3", "1.3.0", False),
        ("1.2.3", "2.0.0", True),
        ("0.1.0", "0.1.1", False),
        ("0.1.0", "0.2.0", True),
    ],
)
def test_the_version_says_whether_clients_may_break(
    before: str, after: str, *, allowed: bool
) -> None:
    documents = ({"info": {"version": version}} for version in (before, after))
    assert may_break(*documents) == allowed
