"""docs/tour.http, sent request by request as an editor's REST client sends it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from support.service import new_sandbox

DOCS: Final = Path(__file__).parents[3] / "docs"
TOUR: Final = (DOCS / "tour.http").read_text()

_VARIABLE: Final = re.compile(r"^@(\w+) = (.+)$", re.MULTILINE)
_NAME: Final = re.compile(r"^# @name (\w+)$", re.MULTILINE)
_EXPECTED: Final = re.compile(r"^# (\d{3})(?: (\w+))?: .+$", re.MULTILINE)
_REFERENCE: Final = re.compile(r"{{([^{}]+)}}")
_REQUEST: Final = re.compile(
    r"^(?P<method>[A-Z]+) (?P<url>\S+(?:\n +[?&]\S+)*)\n"
    r"(?P<headers>(?:\S+: .+\n)*)"
    r"(?:\n(?P<body>(?s:.+)))?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Step:
    """A request, and the status and the problem's code that its comment promises."""

    title: str
    name: str | None
    status: int
    code: str | None
    method: str
    url: str
    headers: str
    body: str


def steps(tour: str) -> Iterator[Step]:
    """The requests of the tour. Fails where one does not say what answers it."""
    for block in re.split(r"^### ", tour, flags=re.MULTILINE)[1:]:
        title = block.partition("\n")[0]
        name, expected, request = (p.search(block) for p in (_NAME, _EXPECTED, _REQUEST))
        assert expected, f"{title}: no comment like # 200: …"
        assert request, f"{title}: no request"
        yield Step(
            title,
            name and name[1],
            int(expected[1]),
            expected[2],
            request["method"],
            re.sub(r"\n +", "", request["url"]),
            request["headers"],
            (request["body"] or "").strip(),
        )


class Client:
    """What an editor is to the tour: it fills in variables and earlier answers."""

    def __init__(self, http: httpx.Client, variables: Mapping[str, str]) -> None:
        self._http = http
        self._variables = variables
        self._answers: dict[str, httpx.Response] = {}

    def send(self, step: Step) -> httpx.Response:
        fields = [line.partition(": ") for line in self._filled(step.headers).splitlines()]
        answer = self._http.request(
            step.method,
            self._filled(step.url),
            headers={name: value for name, _, value in fields},
            content=self._filled(step.body).encode() or None,
        )
        if step.name:
            self._answers[step.name] = answer
        return answer

    def _filled(self, text: str) -> str:
        return _REFERENCE.sub(lambda reference: self._value(reference[1]), text)

    def _value(self, reference: str) -> str:
        """A variable's, or that of a header or a member of an earlier answer."""
        name, *path = reference.split(".")
        match path:
            case []:
                return self._variables[name]
            case ["response", "headers", header]:
                return self._answers[name].headers[header]
            case ["response", "body", "$", member]:
                return str(self._answers[name].json()[member])
        raise AssertionError(f"{{{{{reference}}}}} is no reference")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with new_sandbox() as sandbox, sandbox.serving("dev") as service, service.client() as http:
        token = sandbox.todo_api("token", "alice").stdout.strip()
        given = {"api": service.url, "token": token}
        assert dict(_VARIABLE.findall(TOUR)).keys() == given.keys()
        yield Client(http, given)


def test_every_request_is_answered_as_its_comment_says(client: Client) -> None:
    for step in steps(TOUR):
        answer = client.send(step)
        assert answer.status_code == step.status, f"{step.title}: {answer.text}"
        if step.status >= 400:
            assert answer.json()["code"] == step.code, step.title


def test_the_tour_passes_every_operation_of_the_schema() -> None:
    schema = json.loads((DOCS / "openapi.json").read_text())
    operations = {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, methods in schema["paths"].items()
        for method in methods
    }
    passed = {
        (step.method, _REFERENCE.sub("{}", step.url.removeprefix("{{api}}").partition("?")[0]))
        for step in steps(TOUR)
    }
    assert operations - passed == set()
