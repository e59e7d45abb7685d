"""Clients that TypeScript generators make of docs/openapi.json: they compile, and one is used."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.programs import npm_install, require
from support.service import Sandbox, new_sandbox

SCHEMA: Final = Path(__file__).parents[3] / "docs" / "openapi.json"
PROJECT: Final = Path(__file__).with_name("typescript")
SOURCES: Final = ("package.json", "tsconfig.json", "life.ts", "mistakes.ts", "lint.mjs")


@pytest.fixture(scope="module")
def project() -> Iterator[Sandbox]:
    """A sandbox with the schema, and with the clients that both generators make of it."""
    require("node")
    with new_sandbox() as sandbox:
        for source in SOURCES:
            shutil.copy(PROJECT / source, sandbox.directory)
        shutil.copy(SCHEMA, sandbox.directory)
        (sandbox.directory / "node_modules").symlink_to(npm_install(PROJECT))
        done(sandbox, "openapi-typescript", SCHEMA.name, "--output", "schema.ts")
        done(sandbox, "openapi-ts", "--input", SCHEMA.name, "--output", "hey-api")
        yield sandbox


def done(sandbox: Sandbox, program: str, *arguments: str) -> None:
    """Run a program of the packages, which has to succeed."""
    result = sandbox.run(require("node"), f"node_modules/.bin/{program}", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def compiled(project: Sandbox) -> Sandbox:
    done(project, "tsc")
    return project


def test_both_clients_compile_under_strict_and_refuse_mistakes(compiled: Sandbox) -> None:
    built = {path.name for path in (compiled.directory / "build").rglob("*.js")}
    assert built >= {"life.js", "mistakes.js", "schema.js", "sdk.gen.js"}


def test_a_client_lives_the_life_of_a_task(compiled: Sandbox) -> None:
    with compiled.serving("dev") as service:
        token = compiled.todo_api("token", "ada").stdout.strip()
        told = compiled.run(require("node"), "build/life.js", API_URL=service.url, TOKEN=token)
    assert told.returncode == 0, told.stderr


def test_a_linter_finds_nothing_in_the_schema(project: Sandbox) -> None:
    told = project.run(require("node"), "lint.mjs")
    assert (told.returncode, told.stdout) == (0, ""), told.stderr
