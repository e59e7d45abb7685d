"""The adapters of docs/examples with the real RxDB and TanStack DB, and the page about them."""

import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from support.frontend import AUTH_SETTINGS
from support.programs import npm_install, require
from support.service import Sandbox, Service, new_sandbox
from todo_adapters.postgres.url import DatabaseUrl

DOCS: Final = Path(__file__).parents[3] / "docs"
PROJECT: Final = Path(__file__).with_name("offline_clients")
PAGE: Final = DOCS / "offline.md"
LIBRARIES: Final = ("rxdb", "tanstack-db", "powersync")


@pytest.fixture(scope="module")
def programs() -> Iterator[Sandbox]:
    """A sandbox with the compiled adapters and scenarios."""
    require("node")
    with new_sandbox() as sandbox:
        for source in (*DOCS.glob("examples/*.ts"), *PROJECT.glob("*.*")):
            shutil.copy(source, sandbox.directory)
        (sandbox.directory / "api.ts").write_text(documented_client())
        (sandbox.directory / "node_modules").symlink_to(npm_install(PROJECT))
        result = sandbox.run(require("node"), "node_modules/typescript/bin/tsc")
        assert result.returncode == 0, result.stdout
        yield sandbox


def documented_client() -> str:
    """The file api.ts of docs/better-auth.md, for the service at API_URL."""
    page = (DOCS / "better-auth.md").read_text()
    (client,) = re.findall(r"^```ts\n// api\.ts\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    client = client.replace("https://api.example.com", "${process.env.API_URL}")
    return f'import {{ authClient }} from "./auth-client";\n{client}'


@pytest.fixture(scope="module")
async def settings(branch: Callable[[str], Awaitable[DatabaseUrl]]) -> dict[str, str]:
    address = await branch("offline_clients")
    url = address.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return {"DATABASE_URL": url, "RATE_LIMIT": "off", **AUTH_SETTINGS}


@pytest.fixture(scope="module")
def service(programs: Sandbox, settings: dict[str, str]) -> Iterator[Service]:
    with programs.serving("serve", **settings) as service:
        yield service


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_adapter_passes_its_scenarios(
    programs: Sandbox, service: Service, settings: dict[str, str], library: str
) -> None:
    result = programs.run(
        require("node"),
        *("--test", "--test-reporter=spec", f"build/{library}.test.js"),
        API_URL=service.url,
        TODO_API=programs.program,
        **settings,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_page_has_a_row_for_each_scenario() -> None:
    sources = [(PROJECT / f"{library}.test.ts").read_text() for library in LIBRARIES]
    scenarios = re.findall(r'^test\("(.+)", async', "".join(sources), re.MULTILINE)
    tables = re.findall(r"^\| scenario.+\n\|.+\n((?:\|.+\n)+)", PAGE.read_text(), re.MULTILINE)
    rows = re.findall(r"^\| (.+?) \|", "".join(tables), re.MULTILINE)
    assert rows == scenarios


def test_the_code_of_the_page_is_in_the_adapters() -> None:
    adapters = "".join(path.read_text() for path in DOCS.glob("examples/*.ts"))
    for code in re.findall(r"^```ts\n(.+?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        assert code in adapters
