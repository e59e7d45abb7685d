"""docs/examples/frontend with a real Better Auth and the real service, and the pages about it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.ports import free_port
from support.programs import npm_install, require
from support.service import Sandbox, new_sandbox

DOCS: Final = Path(__file__).parents[3] / "docs"
EXAMPLES: Final = DOCS / "examples" / "frontend"
PROJECT: Final = Path(__file__).with_name("frontend")
PAGES: Final = (DOCS / "frontend.md", DOCS / "better-auth.md")
# What the scenarios use in place of a browser, of the origin of a deployed service and of Next.js.
REPLACED: Final = {
    "createAuthClient({": "createAuthClient({ baseURL: origin,",
    "fetchOptions: {": "fetchOptions: { customFetchImpl: authFetch,",
    'import { forgetToken } from "./api";': 'import { forgetToken } from "./api";\n'
    'import { origin } from "./auth";\nimport { authFetch } from "./browser";',
    "`https://api.example.com${path}`": "`${process.env.API_URL}${path}`",
    '"https://api.example.com"': "process.env.API_URL",
    "next/headers": "./next-headers",
}
_BLOCK: Final = re.compile(r"^```ts\n// (\S+)\n(.+?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project() -> Iterator[Sandbox]:
    """A sandbox with the compiled examples and scenarios."""
    require("node")
    with new_sandbox() as sandbox:
        for example in EXAMPLES.glob("*.ts"):
            text = example.read_text()
            for documented, used in REPLACED.items():
                text = text.replace(documented, used)
            (sandbox.directory / example.name).write_text(text)
        for source in (*PROJECT.glob("*.*"), DOCS / "openapi.json"):
            shutil.copy(source, sandbox.directory)
        (sandbox.directory / "node_modules").symlink_to(npm_install(PROJECT))
        run(sandbox, "openapi-typescript", "openapi.json", "--output", "schema.ts")
        run(sandbox, "tsc")
        yield sandbox


def run(sandbox: Sandbox, program: str, *arguments: str) -> None:
    """Run a program of the packages, which has to succeed."""
    result = sandbox.run(require("node"), f"node_modules/.bin/{program}", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_examples_pass_their_scenarios(project: Sandbox) -> None:
    port = str(free_port())
    with project.serving("dev", BETTER_AUTH_URL=f"http://localhost:{port}") as service:
        result = project.run(
            require("node"),
            *("--test", "--test-reporter=spec", "build/frontend.test.js"),
            API_URL=service.url,
            TODO_API_URL=service.url,
            AUTH_PORT=port,
        )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.ts")), ids=lambda path: path.name)
def test_an_example_is_in_a_page(example: Path) -> None:
    blocks = [block for page in PAGES for block in _BLOCK.findall(page.read_text())]
    texts = [text for name, text in blocks if name == example.name]
    assert texts
    assert all(example.read_text().endswith(text) for text in texts)
