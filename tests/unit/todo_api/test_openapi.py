"""The OpenAPI document: stable names, valid examples, and no unused components."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
from pydantic import ConfigDict, TypeAdapter, with_config

from support.http_client import client, served
from todo_api.problems import PROBLEM_TYPES, Problem
from todo_api.routes.batch import BatchResults
from todo_api.routes.health import Health
from todo_api.routes.me import Erased, Export, Imported, Me
from todo_api.routes.sync import Changes
from todo_api.schemas import Changed, ChangedTask, Deleted, NewTask, Restored, Task, TaskChanges

Json = dict[str, Any]

OPERATIONS: Final = {
    "listTasks": ("get", "/api/tasks"),
    "createTask": ("post", "/api/tasks"),
    "getTask": ("get", "/api/tasks/{task_id}"),
    "updateTask": ("put", "/api/tasks/{task_id}"),
    "patchTask": ("patch", "/api/tasks/{task_id}"),
    "completeTask": ("patch", "/api/tasks/{task_id}/complete"),
    "deleteTask": ("delete", "/api/tasks/{task_id}"),
    "changeTasks": ("patch", "/api/tasks"),
    "deleteTasks": ("delete", "/api/tasks"),
    "restoreTasks": ("post", "/api/tasks/restore"),
    "applyBatch": ("post", "/api/tasks/batch"),
    "restoreTask": ("post", "/api/tasks/{task_id}/restore"),
    "listChanges": ("get", "/api/tasks/changes"),
    "streamChanges": ("get", "/api/tasks/stream"),
    "getMe": ("get", "/api/me"),
    "exportMe": ("get", "/api/me/export"),
    "importMe": ("post", "/api/me/import"),
    "eraseMe": ("delete", "/api/me"),
    "isLive": ("get", "/health/live"),
    "isReady": ("get", "/health/ready"),
}

COMMON: Final = {
    *("token_missing", "token_malformed", "token_not_jwt", "token_expired", "token_invalid"),
    *("not_acceptable", "rate_limited", "headers_too_large"),
    *("database_unavailable", "auth_keys_unavailable", "overloaded"),
    "validation_failed",  # an unknown parameter with Prefer: handling=strict
}
WITH_BODY: Final = {"malformed_json", "body_too_large", "unsupported_media_type"}
GUARD: Final = {"bad_request", "filter_required", "too_many_affected"}
EDIT: Final = {"bad_request", "not_found", "conflict", "stale_version", "nothing_to_change"}
PROBLEMS: Final = {
    "listTasks": COMMON | {"bad_cursor"},
    "createTask": COMMON | WITH_BODY | {"bad_request", "id_taken", "idempotency_key_reused"},
    "getTask": COMMON | {"not_found"},
    "updateTask": COMMON | WITH_BODY | EDIT | {"id_taken"},
    "patchTask": COMMON | WITH_BODY | EDIT,
    "completeTask": COMMON | WITH_BODY | EDIT,
    "deleteTask": COMMON | {"bad_request", "not_found", "stale_version"},
    "changeTasks": COMMON | WITH_BODY | GUARD | {"nothing_to_change"},
    "deleteTasks": COMMON | GUARD,
    "restoreTasks": COMMON | {"bad_request"},
    "applyBatch": COMMON
    | WITH_BODY
    | {"bad_request", "batch_rejected", "conflict", "idempotency_key_reused"},
    "restoreTask": COMMON | {"not_found", "not_deleted"},
    "listChanges": COMMON | {"bad_cursor", "sync_expired"},
    "streamChanges": COMMON | {"too_many_streams", "stream_unavailable"},
    "getMe": COMMON,
    "exportMe": COMMON,
    "importMe": COMMON | WITH_BODY | {"bad_request", "conflict", "id_taken"},
    "eraseMe": COMMON | WITH_BODY | {"bad_request"},
    "isReady": {"not_ready"},
}
CHANGES: Final = ("updateTask", "patchTask", "completeTask", "deleteTask", "restoreTask")


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictTask(Task):
    """A task with all members and no others."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictChangedTask(ChangedTask):
    """A changed task with all members and no others but its successor."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictProblem(Problem):
    """A problem with all members and no others."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictMe(Me):
    """The user with all members and no others."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictExport(Export):
    """An export with all members and no others."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictImported(Imported):
    """The result of an import and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictErased(Erased):
    """The result of an erasure and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictChanged(Changed):
    """The number and ids of changed tasks and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictDeleted(Deleted):
    """The number and ids of deleted tasks and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictRestored(Restored):
    """The number and ids of restored tasks and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictBatchResults(BatchResults):
    """The results of a batch and no other member."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictChanges(Changes):
    """A page of the feed and no other members."""


@with_config(ConfigDict(extra="forbid", strict=True))
class StrictHealth(Health):
    """The health status and no other member."""


MODELS: Final[dict[str, TypeAdapter[Any]]] = {
    "Task": TypeAdapter(StrictTask),
    "ChangedTask": TypeAdapter(StrictChangedTask),
    "Problem": TypeAdapter(StrictProblem),
    "Me": TypeAdapter(StrictMe),
    "Export": TypeAdapter(StrictExport),
    "Imported": TypeAdapter(StrictImported),
    "Erased": TypeAdapter(StrictErased),
    "BatchResults": TypeAdapter(StrictBatchResults),
    "Changed": TypeAdapter(StrictChanged),
    "Deleted": TypeAdapter(StrictDeleted),
    "Restored": TypeAdapter(StrictRestored),
    "Changes": TypeAdapter(StrictChanges),
    "Health": TypeAdapter(StrictHealth),
}


@pytest.fixture(scope="module")
async def schema() -> Json:
    async with served() as app, client(app) as stranger:
        answer = await stranger.get("/openapi.json")
    assert answer.status_code == 200
    document: Json = answer.json()
    return document


def operations(schema: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def operation(schema: Json, name: str) -> Json:
    method, path = OPERATIONS[name]
    found: Json = schema["paths"][path][method]
    return found


def contents(schema: Json) -> Iterator[tuple[str, Json]]:
    """Every response with a body: operation, status and media type, and the media type object."""
    for _, _, op in operations(schema):
        for status, response in op["responses"].items():
            for media_type, content in response.get("content", {}).items():
                yield f"{op['operationId']} {status} {media_type}", content


def examples(content: Json) -> list[Any]:
    several = [example["value"] for example in content.get("examples", {}).values()]
    return [*several, content["example"]] if "example" in content else several


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


class TestSchema:
    def test_the_document_is_openapi_3_1(self, schema: Json) -> None:
        assert schema["openapi"].startswith("3.1.")

    def test_operation_ids_are_stable(self, schema: Json) -> None:
        found = {op["operationId"]: (method, path) for path, method, op in operations(schema)}
        assert found == OPERATIONS

    def test_every_operation_has_a_summary_and_a_description(self, schema: Json) -> None:
        assert all(op["summary"] and op["description"] for _, _, op in operations(schema))

    def test_api_operations_need_a_bearer_token(self, schema: Json) -> None:
        for path, _, op in operations(schema):
            is_protected = path.startswith("/api/")
            assert op.get("security") == ([{"bearer": []}] if is_protected else None)
        scheme = schema["components"]["securitySchemes"]["bearer"]
        assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == (
            "http",
            "bearer",
            "JWT",
        )

    def test_fastapis_generated_components_are_absent(self, schema: Json) -> None:
        text = str(schema)
        phantoms = ("HTTPValidationError", "ValidationError", "-Input", "-Output", "__")
        assert [name for name in phantoms if name in text] == []

    def test_every_component_is_used_and_every_reference_is_defined(self, schema: Json) -> None:
        defined = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "headers")
            for name in schema["components"][kind]
        }
        assert defined == set(references(schema))

    def test_every_member_and_every_parameter_has_a_description(self, schema: Json) -> None:
        members = {
            f"{component}.{name}": member
            for component, described in schema["components"]["schemas"].items()
            for name, member in described.get("properties", {}).items()
        }
        parameters = {
            f"{op['operationId']} {p['name']}": p
            for _, _, op in operations(schema)
            for p in op.get("parameters", ())
        }
        assert [
            name for name, d in (members | parameters).items() if not d.get("description")
        ] == []

    def test_priorities_and_problem_codes_are_named_enumerations(self, schema: Json) -> None:
        schemas = schema["components"]["schemas"]
        assert schemas["Priority"]["enum"] == ["low", "medium", "high"]
        assert schemas["ProblemCode"]["enum"] == list(PROBLEM_TYPES)
        assert "'enum': ['low'" not in str(schema["paths"])
        assert schemas["Problem"]["properties"]["code"]["$ref"].endswith("/ProblemCode")


class TestResponses:
    @pytest.mark.parametrize(
        "name",
        ["createTask", "updateTask", "patchTask", "completeTask", "deleteTask", "restoreTask"],
    )
    def test_changes_of_a_task_document_204_without_a_body(self, schema: Json, name: str) -> None:
        response = operation(schema, name)["responses"]["204"]
        assert "content" not in response
        assert "Preference-Applied" in response["headers"]

    @pytest.mark.parametrize("name", PROBLEMS)
    def test_every_operation_documents_its_problems(self, schema: Json, name: str) -> None:
        documented = {
            (int(status), code)
            for status, response in operation(schema, name)["responses"].items()
            for code in response.get("content", {})
            .get("application/problem+json", {})
            .get("examples", {})
        }
        assert documented >= {(PROBLEM_TYPES[code].status, code) for code in PROBLEMS[name]}

    def test_every_response_has_an_example(self, schema: Json) -> None:
        assert [where for where, content in contents(schema) if not examples(content)] == []

    def test_every_example_matches_its_schema(self, schema: Json) -> None:
        for where, content in contents(schema):
            described = content["schema"]
            if described == {"type": "string"}:
                assert all(isinstance(example, str) for example in examples(content)), where
                continue
            items = described.get("items")
            name = (items or described)["$ref"].rpartition("/")[2]
            for example in examples(content):
                for document in example if items else [example]:
                    assert MODELS[name].validate_python(document) == document, where

    def test_examples_of_problems_are_under_their_code_and_status(self, schema: Json) -> None:
        for where, content in contents(schema):
            if where.endswith("application/problem+json"):
                for code, example in content["examples"].items():
                    problem = example["value"]
                    assert problem["code"] == code
                    assert where.split()[1] == str(problem["status"])
                    assert problem["detail"] == problem["message"] != ""

    @pytest.mark.parametrize("name", ["listTasks", "getTask"])
    def test_reads_of_tasks_document_304(self, schema: Json, name: str) -> None:
        assert "content" not in operation(schema, name)["responses"]["304"]

    def test_an_export_documents_every_format(self, schema: Json) -> None:
        content = operation(schema, "exportMe")["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/calendar", "text/csv"}

    def test_readiness_documents_200_and_503(self, schema: Json) -> None:
        assert set(operation(schema, "isReady")["responses"]) == {"200", "503"}


class TestBodies:
    @pytest.mark.parametrize("model", [NewTask, TaskChanges])
    def test_bodies_have_every_member_that_can_be_written(self, schema: Json, model: type) -> None:
        members = schema["components"]["schemas"][model.__name__]["properties"]
        assert set(members) == set(model.__annotations__)

    @pytest.mark.parametrize("name", ["NewTask", "TaskChanges"])
    @pytest.mark.parametrize(
        ("member", "nullable"),
        [
            ("title", False),
            ("description", True),
            ("completed", False),
            ("priority", True),
            ("due_date", True),
            ("tags", True),
        ],
    )
    def test_a_member_is_nullable_only_if_null_clears_it(
        self, schema: Json, name: str, member: str, *, nullable: bool
    ) -> None:
        described = schema["components"]["schemas"][name]["properties"][member]
        variants = [*described.get("anyOf", ()), described]
        types = [kind for v in variants for kind in (v.get("type"), *as_list(v.get("type")))]
        assert ("null" in types) == nullable

    def test_only_new_tasks_have_required_members(self, schema: Json) -> None:
        schemas = schema["components"]["schemas"]
        assert schemas["NewTask"]["required"] == ["title"]
        assert schemas["ImportedTask"]["required"] == ["title", "id"]
        assert "required" not in schemas["TaskChanges"]
        assert "required" not in schemas["Completion"]

    @pytest.mark.parametrize(
        ("name", "required"),
        [("createTask", True), ("updateTask", True), ("patchTask", True), ("completeTask", False)],
    )
    def test_a_body_is_required_except_to_complete(
        self, schema: Json, name: str, *, required: bool
    ) -> None:
        assert operation(schema, name)["requestBody"].get("required", False) == required

    def test_bodies_have_the_limits_of_the_domain(self, schema: Json) -> None:
        members = schema["components"]["schemas"]["NewTask"]["properties"]
        assert (members["title"]["minLength"], members["title"]["maxLength"]) == (1, 200)
        assert members["description"]["anyOf"][0]["maxLength"] == 2000
        assert (members["tags"]["maxItems"], members["tags"]["items"]["maxLength"]) == (20, 50)


class TestParameters:
    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("listTasks", {"Prefer", "If-None-Match"}),
            ("createTask", {"Prefer", "Idempotency-Key"}),
            ("getTask", {"If-None-Match"}),
            ("updateTask", {"Prefer", "If-Match", "If-None-Match"}),
            *(
                (name, {"Prefer", "If-Match", "If-None-Match"})
                for name in ("patchTask", "completeTask", "deleteTask")
            ),
            ("restoreTask", {"Prefer"}),
            ("listChanges", set()),
            *((name, set()) for name in ("getMe", "exportMe", "importMe", "eraseMe")),
        ],
    )
    def test_every_operation_documents_its_header_fields(
        self, schema: Json, name: str, fields: set[str]
    ) -> None:
        found = {
            p["name"]: p
            for p in operation(schema, name).get("parameters", ())
            if p["in"] == "header"
        }
        assert {field.lower() for field in found} == {field.lower() for field in fields}
        assert all(p["description"] and not p["required"] for p in found.values())

    def test_the_list_has_the_query_parameters_of_the_contract(self, schema: Json) -> None:
        found = [
            p["name"] for p in operation(schema, "listTasks")["parameters"] if p["in"] == "query"
        ]
        assert found == [
            *("id", "status", "completed", "priority", "tag", "due_before", "due_after"),
            *("q", "sort", "order", "limit", "cursor"),
        ]

    def test_completed_is_a_boolean(self, schema: Json) -> None:
        for name in ("listTasks", "changeTasks", "deleteTasks"):
            parameters = operation(schema, name)["parameters"]
            (completed,) = [p for p in parameters if p["name"] == "completed"]
            assert completed["schema"]["type"] == "boolean"

    @pytest.mark.parametrize("name", ["createTask", "applyBatch"])
    def test_an_idempotency_key_has_its_limits(self, schema: Json, name: str) -> None:
        (key,) = [p for p in operation(schema, name)["parameters"] if p["in"] == "header"][:1]
        assert (key["schema"]["minLength"], key["schema"]["maxLength"]) == (1, 255)

    def test_path_parameters_are_uuids(self, schema: Json) -> None:
        for path, _, op in operations(schema):
            in_path = [p for p in op.get("parameters", ()) if p["in"] == "path"]
            assert [p["schema"]["format"] for p in in_path] == ["uuid"] * path.count("{")


def as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
