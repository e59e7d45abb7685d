"""The wheel, installed where there is no checkout: the whole service is in it, on every Python."""

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

from support.frontend import BELIEVED, as_user
from support.programs import require
from support.service import Workplace, workplace

ROOT: Final = Path(__file__).parents[3]
PYTHONS: Final = ("3.11", "3.12", "3.13")
THIS: Final = sysconfig.get_python_version()


def build(directory: Path, kind: str) -> Path:
    """The one file of that kind that the build makes."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(directory))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module", params=PYTHONS)
def place(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Workplace]:
    """A place whose ``todo-api`` comes from the wheel."""
    python = sys.executable if request.param == THIS else require(f"python{request.param}")
    with workplace() as place:
        environment = place.root / "environment"
        run(python, "-m", "venv", str(environment))
        install = (str(environment / "bin" / "pip"), "install", "--quiet", "--no-deps")
        run(*install, "--require-hashes", "--requirement", str(ROOT / "requirements.lock"))
        run(*install, str(wheel))
        yield Workplace(place.root, program=str(environment / "bin" / "todo-api"))


def run(*command: str) -> None:
    result = subprocess.run(
        command, stdin=DEVNULL, capture_output=True, text=True, check=False, cwd="/"
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_same_source_makes_the_same_bytes(tmp_path: Path, kind: str) -> None:
    digests = set()
    for number in "12":
        directory = tmp_path / number
        directory.mkdir()
        digests.add(sha256(build(directory, kind).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_it_says_its_version(place: Workplace, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert place.todo_api("--version").stdout == f"todo-api {version}\n"


def test_dev_has_its_database_and_its_documentation(place: Workplace) -> None:
    with place.serving("dev") as service, service.client() as alice:
        token = place.todo_api("token", "alice").stdout.strip()
        alice.headers["Authorization"] = f"Bearer {token}"
        created = alice.post("/api/tasks", json={"title": "Buy milk"})
        assert alice.get("/api/tasks").json() == [created.json()]
        assert alice.get("/docs").is_success
        assert alice.get("/docs/swagger-ui-bundle.js").is_success


async def test_serve_serves_what_migrate_has_prepared(place: Workplace, server_url: str) -> None:
    name = f"packaged_{uuid4().hex}"
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    settings = {"DATABASE_URL": urlsplit(server_url)._replace(path=f"/{name}").geturl(), **BELIEVED}
    assert place.todo_api("migrate", **settings).returncode == 0
    with place.serving("serve", **settings) as service, service.client() as ada:
        answer = ada.post("/api/tasks", json={"title": "Buy milk"}, headers=as_user("ada"))
        assert answer.status_code == 201
