"""The commands of README.md and docs/*.md, executed as a reader would.

- Each ``sh`` block is run, in order, in one shell and one fresh copy of the checkout for each page:
  once in bash and once in zsh.
  Every command has to succeed.
- A block that ends in ``make run``, ``todo-api dev`` or ``todo-api serve`` is for a terminal of its
  own: it has to become ready, and goes on until Ctrl-C ends it, before the next such block or at
  the end of the page.
- A block after the comment ``<!-- not run: reason -->`` is not run.
- Blocks in other languages are for reading. Where a page has port 8000, a free port replaces it.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Final

import pytest

from support.ports import free_port
from support.programs import require
from support.service import Sandbox, Service, eventually, new_sandbox
from support.tasks import MEMBERS

ROOT: Final = Path(__file__).parents[3]
PAGES: Final = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]

_BLOCK: Final = re.compile(
    r"(?P<excuse><!-- not run: [^\n]+ -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT: Final = re.compile(r"(?:^|\s)#", re.MULTILINE)
_SERVICE: Final = re.compile(r"\b(?:make run|todo-api (?:dev|serve))\s*\Z")
_TESTS: Final = re.compile(r"\b(?:make test|pytest)\b|\.ci/run\b")
_OTHER_SHELLS: Final = frozenset({"bash", "console", "shell", "zsh"})
_STAMPS: Final = ("run", "dev")  # of the Makefile in .venv
_CREATED: Final = "created"  # has the path of the checkout


_JSON: Final = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """Commands, and the line of the page where they begin."""

    line: int
    commands: str

    @property
    def is_service(self) -> bool:
        return bool(_SERVICE.search(self.commands))


def blocks(page: str) -> Iterator[Block]:
    """The commands of a page that are to be run. Fails where that is not said as it should be."""
    for match in _BLOCK.finditer(page):
        line = page.count("\n", 0, match.start("text")) + 1
        assert match["language"] not in _OTHER_SHELLS, f"line {line}: write ```sh"
        if match["language"] == "sh" and not match["excuse"]:
            commands = match["text"].replace(f"\n{match['indent']}", "\n")
            assert not _TESTS.search(commands), (
                f"line {line} runs the tests, which run this page: "
                "write <!-- not run: it runs this page --> before the block"
            )
            yield Block(line, commands)


def follow(page: str, sandbox: Sandbox, program: str = "bash") -> None:
    """Run the commands of a page there. Fails at the first that fails, naming its line."""
    port = str(free_port())
    with ExitStack() as other_terminal, shell(sandbox, port, program) as terminal:
        for block in blocks(page.replace("8000", port)):
            if block.is_service:
                other_terminal.close()
                other_terminal.enter_context(service(sandbox, block, port, program))
            else:
                terminal.run(block)


class Shell:
    """A shell that keeps its variables from block to block, and ends with what fails."""

    def __init__(self, process: Popen[str], sandbox: Sandbox, output: Path) -> None:
        self._process = process
        self._place = sandbox
        self._output = output

    def run(self, block: Block) -> None:
        """Return when the block is done."""
        script = self._place.root / f"line-{block.line}.sh"
        done = script.with_suffix(".done")
        script.write_text(block.commands)
        assert self._process.stdin
        self._process.stdin.write(f". {script} </dev/null\ntouch {done}\n")
        self._process.stdin.flush()
        eventually(lambda: done.exists() or self._process.poll() is not None)
        assert done.exists(), f"{script.stem} fails: {self._output.read_text()}"


@contextmanager
def shell(sandbox: Sandbox, port: str, program: str) -> Iterator[Shell]:
    output = sandbox.root / "shell.out"
    with (
        output.open("wb") as stdout,
        Popen(
            [require(program), "-e", "-o", "pipefail"],
            cwd=sandbox.directory,
            env=sandbox.environment(PORT=port),
            stdin=PIPE,
            stdout=stdout,
            stderr=STDOUT,
            text=True,
        ) as process,
    ):
        try:
            yield Shell(process, sandbox, output)
        finally:
            process.kill()


@contextmanager
def service(sandbox: Sandbox, block: Block, port: str, program: str) -> Iterator[Service]:
    with sandbox.start(require(program), "-e", "-c", block.commands, PORT=port) as service:
        service.wait_until_it_answers()
        assert eventually(lambda: service.health().is_success), f"line {block.line} is never ready"
        yield service
        service.press_ctrl_c()
        service.exit_code()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def checkout(sandbox: Sandbox) -> Sandbox:
    """A sandbox with a fresh copy of the checkout, in which make has nothing to do."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    shutil.copytree(
        ROOT,
        sandbox.directory,
        ignore=shutil.ignore_patterns(".git", *ignored),
        dirs_exist_ok=True,
    )
    borrow_environment(sandbox.directory / ".venv")
    return sandbox


def borrow_environment(venv: Path) -> None:
    """Make a virtual environment of the parts of this one, with stamps that are up to date."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name not in {*_STAMPS, _CREATED}:
            (venv / part.name).symlink_to(part)
    (venv / _CREATED).write_text(f"{venv.parent}\n")
    for stamp in _STAMPS:
        (venv / stamp).touch()


WITH_COMMANDS: Final = [page for page in PAGES if list(blocks(page.read_text()))]


@pytest.mark.parametrize("program", ["bash", "zsh"])
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in WITH_COMMANDS])
def test_every_command_works(checkout: Sandbox, page: str, program: str) -> None:
    for needed in ("make", "curl"):
        require(needed)
    follow((checkout.directory / page).read_text(), checkout, program)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_command_has_a_comment(page: Path) -> None:
    """An interactive zsh takes ``#`` for a command's argument, and a quote in it never ends."""
    for match in _BLOCK.finditer(page.read_text()):
        if match["language"] == "sh":
            assert not _COMMENT.search(match["text"]), match["text"]


class TestConvention:
    def test_a_command_that_fails_is_found(self, sandbox: Sandbox) -> None:
        with pytest.raises(AssertionError, match=r"line-4 fails: .*No such file"):
            follow("# A page\n\n```sh\ncat /no/such/file | cat\ntrue\n```\n", sandbox)

    def test_variables_last(self, sandbox: Sandbox) -> None:
        follow("```sh\nname=ada\n```\n\nThen\n\n```sh\necho $name > name\n```\n", sandbox)
        assert (sandbox.directory / "name").read_text() == "ada\n"

    def test_blocks_in_lists_are_run(self, sandbox: Sandbox) -> None:
        follow("1. First\n\n   ```sh\n   cat > text <<'END'\n   words\n   END\n   ```\n", sandbox)
        assert (sandbox.directory / "text").read_text() == "words\n"

    def test_what_has_an_excuse_is_not_run(self, sandbox: Sandbox) -> None:
        follow("<!-- not run: it is wrong -->\n```sh\nfalse\n```\n", sandbox)

    def test_output_is_not_run(self, sandbox: Sandbox) -> None:
        follow("```text\nfalse\n```\n\n```json\n{}\n```\n", sandbox)

    @pytest.mark.parametrize("language", ["bash", "console", "shell"])
    def test_there_is_one_way_to_write_commands(self, language: str) -> None:
        with pytest.raises(AssertionError, match="line 2: write ```sh"):
            list(blocks(f"```{language}\ntrue\n```\n"))

    @pytest.mark.parametrize("command", ["make test", "bash .ci/run", ".venv/bin/pytest"])
    def test_a_page_does_not_run_itself(self, command: str) -> None:
        with pytest.raises(AssertionError, match="line 2 runs the tests"):
            list(blocks(f"```sh\n{command}\n```\n"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tasks_that_a_page_shows_have_the_members_of_tasks(page: Path) -> None:
    shown = [json.loads(text) for text in _JSON.findall(page.read_text())]
    assert all(list(example) == MEMBERS for example in shown if "version" in example)
