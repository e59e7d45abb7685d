"""The wheel, installed without a checkout on each supported Python."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from subprocess import DEVNULL
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.programs import require
from support.service import Sandbox, new_sandbox

ROOT: Final = Path(__file__).parents[3]
PYTHONS: Final = ("3.11", "3.12", "3.13")
THIS: Final = sysconfig.get_python_version()


def build(directory: Path, kind: str) -> Path:
    """Build a wheel or a source distribution; return the file."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(directory))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module", params=PYTHONS)
def sandbox(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Sandbox]:
    """A directory whose ``todo-api`` is installed from the wheel."""
    python = sys.executable if request.param == THIS else require(f"python{request.param}")
    with new_sandbox() as sandbox:
        environment = sandbox.root / "environment"
        run(python, "-m", "venv", str(environment))
        install = (str(environment / "bin" / "pip"), "install", "--quiet", "--no-deps")
        run(*install, "--require-hashes", "--requirement", str(ROOT / "requirements.lock"))
        run(*install, str(wheel))
        yield Sandbox(sandbox.root, program=str(environment / "bin" / "todo-api"))


def run(*command: str) -> None:
    result = subprocess.run(
        command, stdin=DEVNULL, capture_output=True, text=True, check=False, cwd="/"
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_build_is_reproducible(tmp_path: Path, kind: str) -> None:
    digests = set()
    for number in "12":
        directory = tmp_path / number
        directory.mkdir()
        digests.add(sha256(build(directory, kind).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_version_is_that_of_the_wheel(sandbox: Sandbox, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert sandbox.todo_api("--version").stdout == f"todo-api {version}\n"


def test_dev_has_database_and_documentation(sandbox: Sandbox) -> None:
    with sandbox.serving("dev") as service, service.client() as alice:
        token = sandbox.todo_api("token", "alice").stdout.strip()
        alice.headers["Authorization"] = f"Bearer {token}"
        created = alice.post("/api/tasks", json={"title": "Buy milk"})
        assert alice.get("/api/tasks").json() == [created.json()]
        assert alice.get("/docs").is_success
        assert alice.get("/docs/swagger-ui-bundle.js").is_success


async def test_serve_works_on_a_migrated_database(sandbox: Sandbox, server_url: str) -> None:
    name = f"packaged_{uuid4().hex}"
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    settings = {
        "DATABASE_URL": urlsplit(server_url)._replace(path=f"/{name}").geturl(),
        **AUTH_SETTINGS,
    }
    assert sandbox.todo_api("migrate", **settings).returncode == 0
    with sandbox.serving("serve", **settings) as service, service.client() as ada:
        response = ada.post("/api/tasks", json={"title": "Buy milk"}, headers=as_user("ada"))
        assert response.status_code == 201
