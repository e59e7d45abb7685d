"""docs/frontends.md: every row of its tables is true."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from support.frontends import FRONTENDS
from todo_api.compat.dialects import OPTIONS

PAGE: Final = (Path(__file__).parents[4] / "docs/frontends.md").read_text()
EXPRESSION: Final = re.compile(r"`(list|task|problem)((?:\.\w+|\[0\])*)`")


def table(header: str) -> Iterator[list[str]]:
    """The cells of each row of the table with this first line."""
    rows = PAGE.partition(f"{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert rows
    return ([cell.strip() for cell in row.strip("|").split(" | ")] for row in rows)


def test_the_page_has_every_option_with_its_effect() -> None:
    documented = {option.strip("`"): effect for option, effect in table("| option | effect |")}
    assert documented == OPTIONS


@pytest.mark.parametrize(
    ("reads", "options"),
    [
        pytest.param(reads, options.strip("`| "), id=reads)
        for _, reads, options in table("| question | your frontend reads | option |")
    ],
)
async def test_an_answer_names_the_options_that_have_what_the_frontend_reads(
    ada: httpx.AsyncClient, reads: str, options: str
) -> None:
    base = f"/compat/{options}".rstrip("/")
    body = {"title": "Buy milk", "due_date": "2026-01-31"}
    task = (await ada.post("/compat/api/todos", json=body)).json()
    done = (await ada.post("/api/tasks", json=body | {"completed": True})).json()
    documents = {
        "list": (await ada.get(f"{base}/api/tasks")).json(),
        "task": (await ada.get(f"{base}/api/tasks/{task['id']}")).json(),
        "problem": (await ada.get(f"{base}/api/tasks/nothing")).json(),
    }
    for name, path in EXPRESSION.findall(reads):
        read(documents[name], path)
    words = re.findall(r": `(\w+)`, `(\w+)`", reads)
    if words:
        completed = (await ada.get(f"{base}/api/tasks/{done['id']}")).json()
        assert (documents["task"]["status"], completed["status"]) == words[0]


def read(document: Any, path: str) -> None:  # noqa: ANN401 - JSON
    """Follow the path. Raises KeyError or TypeError if the document does not have it."""
    for member in re.findall(r"\w+", path):
        document = document[0 if member == "0" else member]


def test_the_table_of_frontends_has_the_base_path_of_each_test() -> None:
    documented = {
        row[0]: row[-1].strip("`| ")
        for row in table(
            "| number | paths | list | single task | completion | toggle | base path |"
        )
    }
    assert documented.pop("09") == "not served"
    assert documented == {frontend.number: frontend.base for frontend in FRONTENDS}


def test_the_page_names_existing_options_only() -> None:
    base_paths = set(re.findall(r"/compat/([a-z_+-]+)", PAGE))
    assert {option for path in base_paths for option in path.split("+")} <= OPTIONS.keys()
