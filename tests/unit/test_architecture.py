"""The rules that keep the shape hold, and each of them would notice."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
LINTER: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS: Final = [contract["name"] for contract in LINTER["contracts"]]

# For each contract some ways to break it: a module, which may be new, and a line at its end.
VIOLATIONS: Final = {
    "The domain knows neither adapters nor API, the adapters do not know the API": [
        ("todo_domain/task.py", "import todo_adapters"),
        ("todo_adapters/postgres/url.py", "import todo_api"),
    ],
    "Layers of the domain": [
        ("todo_domain/task.py", "import todo_domain.use_cases"),
        ("todo_domain/ownership.py", "import todo_domain.queries"),
        ("todo_domain/unplaced.py", ""),
    ],
    "Adapters are independent of each other": [
        ("todo_adapters/jose/keys.py", "import todo_adapters.postgres"),
        ("todo_adapters/postgres/url.py", "import todo_adapters.jose"),
        ("todo_adapters/unplaced.py", ""),
    ],
    "Layers of the PostgreSQL adapter": [
        ("todo_adapters/postgres/statements.py", "import todo_adapters.postgres.tasks"),
        ("todo_adapters/postgres/rows.py", "import todo_adapters.postgres.statements"),
        ("todo_adapters/postgres/tables.py", "import todo_adapters.postgres.database"),
        ("todo_adapters/postgres/hosts.py", "import todo_adapters.postgres.url"),
        ("todo_adapters/postgres/unplaced.py", ""),
    ],
    "Layers of the JOSE adapter": [
        ("todo_adapters/jose/keys.py", "import todo_adapters.jose.verifiers"),
        ("todo_adapters/jose/unplaced.py", ""),
    ],
    "Layers of the embedded PostgreSQL": [
        ("todo_adapters/embedded_postgres/launcher.py", "from . import server"),
        ("todo_adapters/embedded_postgres/cluster.py", "from . import server"),
        ("todo_adapters/embedded_postgres/unplaced.py", ""),
    ],
    "Layers of the API": [
        ("todo_api/problems.py", "import todo_api.schemas"),
        ("todo_api/http/routing.py", "import todo_api.routes.tasks"),
        ("todo_api/server/settings.py", "import todo_api.main"),
        ("todo_api/routes/tasks.py", "import todo_api.compat.dialects"),
        ("todo_api/unplaced.py", ""),
    ],
    "Layers of reading requests and writing responses": [
        ("todo_api/http/headers.py", "import todo_api.http.routing"),
        ("todo_api/http/unplaced.py", ""),
    ],
    "Routes are independent of each other": [
        ("todo_api/routes/me.py", "import todo_api.routes.tasks"),
        ("todo_api/routes/unplaced.py", ""),
    ],
    "Middleware are independent of each other": [
        ("todo_api/middleware/cors.py", "import todo_api.middleware.limits"),
        ("todo_api/middleware/unplaced.py", ""),
    ],
    "Layers of the dialects": [
        ("todo_api/compat/requests.py", "import todo_api.compat.exchanges"),
        ("todo_api/compat/unplaced.py", ""),
    ],
    "Layers of the server": [
        ("todo_api/server/settings.py", "import todo_api.server.granian"),
        ("todo_api/server/unplaced.py", ""),
    ],
    "Layers of the command line": [
        ("todo_api/cli/seed.py", "import todo_api.cli.commands"),
        ("todo_api/cli/tokens.py", "import todo_api.cli.dev"),
        ("todo_api/cli/unplaced.py", ""),
    ],
    "Only the composition root and the commands import adapters": [
        ("todo_api/app.py", "import todo_adapters.postgres.tasks"),
        ("todo_api/unplaced.py", "from todo_adapters import jose"),
    ],
    "Only the API knows HTTP": [
        ("todo_domain/errors.py", "import fastapi"),
        ("todo_adapters/postgres/database.py", "from starlette import status"),
    ],
    "No import cycles": [
        ("todo_api/server/settings.py", "import todo_api.main"),
    ],
}


# Prints what import-linter says about the packages in each of the directories, in one line.
LINT: Final = """
import contextlib, io, sys
from importlinter.cli import lint_imports
configuration, *directories = sys.argv[1:]
for directory in directories:
    sys.path.insert(0, directory)
    with contextlib.redirect_stdout(io.StringIO()) as report:
        lint_imports(config_filename=configuration, no_cache=True, no_logo=True)
    print(*report.getvalue().split())
    sys.path.remove(directory)
"""


def lint(*directories: Path) -> list[str]:
    """The reports, made in one process: to start one takes five times as long as a report."""
    paths = map(str, (ROOT / "pyproject.toml", *directories))
    command = (sys.executable, "-I", "-c", LINT, *paths)
    return subprocess.check_output(command, text=True).splitlines()


def foreign_imports(package: Path) -> set[str]:
    """What the package's modules import that is neither theirs nor in the standard library."""
    imported = {
        name.partition(".")[0]
        for module in package.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        for name in imported_by(node)
    }
    return imported - sys.stdlib_module_names - {package.name}


def imported_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module


def test_the_domain_imports_the_standard_library_alone() -> None:
    assert foreign_imports(ROOT / "src/todo_domain") == set()


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("import sqlalchemy.orm", "sqlalchemy"),
        ("from fastapi.responses import Response", "fastapi"),
        ("def late():\n    import pydantic as p", "pydantic"),
        ("if 0:\n    from todo_adapters import jose", "todo_adapters"),
    ],
)
def test_a_domain_that_imports_anything_else_is_noticed(
    tmp_path: Path, line: str, foreign: str
) -> None:
    domain = shutil.copytree(ROOT / "src/todo_domain", tmp_path / "todo_domain")
    (domain / "stray.py").write_text(f"import json, os.path\nfrom . import task\n{line}\n")
    assert foreign_imports(domain) == {foreign}


def test_every_contract_is_kept() -> None:
    (report,) = lint(ROOT / "src")
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in report


def test_every_package_is_under_the_contracts() -> None:
    packages = {path.name for path in (ROOT / "src").iterdir() if any(path.rglob("*.py"))}
    assert packages == set(LINTER["root_packages"])


def test_every_contract_has_violations_to_show_that_it_would_notice() -> None:
    assert set(CONTRACTS) <= VIOLATIONS.keys()


BROKEN: Final = [(name, *violation) for name in CONTRACTS for violation in VIOLATIONS.get(name, [])]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """What import-linter says of the sources with each of the violations."""
    directories = [tmp_path_factory.mktemp("sources") for _ in BROKEN]
    for directory, (_, module, line) in zip(directories, BROKEN, strict=True):
        pycache = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "src", directory, ignore=pycache, dirs_exist_ok=True)
        with (directory / module).open("a") as violator:
            violator.write(f"\n{line}\n")
    return dict(zip(BROKEN, lint(*directories), strict=True))


@pytest.mark.parametrize("violation", BROKEN, ids=" ".join)
def test_a_violation_of_a_contract_is_noticed(
    reports: dict[tuple[str, str, str], str], violation: tuple[str, str, str]
) -> None:
    assert f"{violation[0]} BROKEN" in reports[violation]
