"""Base paths and spellings of paths."""

import re

import pytest

from todo_api.compat.dialects import OPTIONS, split_base_path
from todo_api.compat.paths import canonical_path
from todo_api.problems import ProblemError

ID = "0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"


@pytest.mark.parametrize(
    ("method", "path", "canonical"),
    [
        ("GET", "/api/tasks", ("/api/tasks", "GET", None)),
        ("GET", "/api/tasks/", ("/api/tasks", "GET", None)),
        ("GET", "/api/todos", ("/api/tasks", "GET", None)),
        ("GET", "/tasks", ("/api/tasks", "GET", None)),
        ("GET", "/todos/", ("/api/tasks", "GET", None)),
        ("GET", "", ("/api/tasks", "GET", None)),
        ("GET", "/", ("/api/tasks", "GET", None)),
        ("GET", f"/{ID}", (f"/api/tasks/{ID}", "GET", None)),
        ("GET", "/api/v1/tasks", ("/api/tasks", "GET", None)),
        ("GET", "/api/api/v1/tasks", ("/api/tasks", "GET", None)),
        ("GET", "/api/tasks/a%2Fb", ("/api/tasks/a%2Fb", "GET", None)),
        ("GET", "/api/ada/todos", ("/api/tasks", "GET", "ada")),
        ("GET", f"/api/v1/ada/tasks/{ID}", (f"/api/tasks/{ID}", "GET", "ada")),
        ("GET", "/api/a%2Fb/tasks", ("/api/tasks", "GET", "a/b")),
        ("GET", "/api/tasks/tasks", ("/api/tasks/tasks", "GET", None)),
        ("GET", "/api/tasks/todos", ("/api/tasks/todos", "GET", None)),
        ("POST", f"/api/todos/{ID}/toggle", (f"/api/tasks/{ID}/complete", "PATCH", None)),
        ("PUT", f"/api/tasks/{ID}/toggle", (f"/api/tasks/{ID}/complete", "PATCH", None)),
        ("PATCH", f"/api/tasks/{ID}/toggle-status", (f"/api/tasks/{ID}/complete", "PATCH", None)),
        ("PUT", f"/api/ada/tasks/{ID}/complete/", (f"/api/tasks/{ID}/complete", "PATCH", "ada")),
        ("DELETE", f"/api/tasks/{ID}/toggle", (f"/api/tasks/{ID}/toggle", "DELETE", None)),
        ("POST", f"/api/todos/{ID}/restore", (f"/api/tasks/{ID}/restore", "POST", None)),
        ("GET", "/api/tasks/changes", ("/api/tasks/changes", "GET", None)),
        ("GET", "/api/health", ("/health/live", "GET", None)),
        ("GET", "/api/me", ("/api/me", "GET", None)),
        ("GET", "/health/ready", ("/health/ready", "GET", None)),
        ("GET", "/api/todosx", ("/api/todosx", "GET", None)),
        ("GET", "/api/%ff/tasks", ("/api/tasks", "GET", "\ufffd")),
    ],
)
def test_a_path_has_its_canonical_form(
    method: str, path: str, canonical: tuple[str, str, str | None]
) -> None:
    assert canonical_path(path.encode(), method) == canonical


@pytest.mark.parametrize(
    ("path", "text", "dialect", "rest"),
    [
        ("/compat/api/tasks", "/compat", set(), "/api/tasks"),
        ("/compat/health/live", "/compat", set(), "/health/live"),
        ("/compat/", "/compat", set(), "/"),
        ("/compat/plain/tasks", "/compat/plain", {"plain"}, "/tasks"),
        ("/compat/tasks", "/compat/tasks", {"tasks"}, ""),
        ("/compat/tasks+camel/api/tasks", "/compat/tasks+camel", {"tasks", "camel"}, "/api/tasks"),
        ("/compat/tasks%2Bcamel/api/x", "/compat/tasks+camel", {"tasks", "camel"}, "/api/x"),
        ("/compat/todobackend/", "/compat/todobackend", {"todobackend", "order"}, "/"),
        ("//compat//camel//api//tasks", "/compat/camel", {"camel"}, "/api/tasks"),
    ],
)
def test_a_base_path_names_the_options(path: str, text: str, dialect: set[str], rest: str) -> None:
    base = split_base_path(path.encode())
    assert (base.text, set(base.dialect), base.rest) == (text, dialect, rest.encode())


@pytest.mark.parametrize(
    "options", ["v1", "Tasks", "tasks,camel", "tasks+", "+", "tasks+v1", "%ff"]
)
def test_an_unknown_option_is_404_with_the_list_of_options(options: str) -> None:
    with pytest.raises(ProblemError) as caught:
        split_base_path(f"/compat/{options}/api/tasks".encode())
    assert caught.value.code == "not_found"
    listed = re.search(r"Options: ([a-z_, -]+)\.", caught.value.detail or "")
    assert listed
    assert listed[1].split(", ") == list(OPTIONS)
