"""Run the installed ``todo-api`` in a sandbox, and check that none of its processes remains."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen, TimeoutExpired
from tempfile import mkdtemp
from typing import Final, TypeVar

import httpx

from support.ports import free_port

PROGRAM: Final = str(Path(sys.executable).with_name("todo-api"))
PATIENCE: Final = 60.0  # seconds to wait for an event before the test fails
STOPS_WITHIN: Final = 10.0  # seconds

_Answer = TypeVar("_Answer")


def eventually(ask: Callable[[], _Answer]) -> _Answer:
    """The first true result of repeated calls, or the last result after ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer


def refusal(result: CompletedProcess[str]) -> str:
    """The one-sentence message of a command that failed. Asserts that it wrote nothing else."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    name, _, sentence = result.stderr.removesuffix("\n").partition(": ")
    assert name == "todo-api"
    assert "\n" not in sentence, sentence
    return sentence


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A working directory, an empty home directory and a minimal environment for programs."""

    root: Path
    program: str = PROGRAM

    @property
    def directory(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def todo_api(self, *arguments: str, **variables: str) -> CompletedProcess[str]:
        """Run a command of ``todo-api`` to its end."""
        return self.run(self.program, *arguments, **variables)

    def run(self, *command: str, **variables: str) -> CompletedProcess[str]:
        """Run any program to its end."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment(**variables),
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @contextmanager
    def serving(self, *arguments: str, **variables: str) -> Iterator["Service"]:
        """A service that ``todo-api`` starts with these arguments and that has answered once."""
        with self.start(self.program, *arguments, **variables) as service:
            service.wait_until_it_answers()
            yield service

    @contextmanager
    def start(self, *command: str, **variables: str) -> Iterator["Service"]:
        """Start a program that will listen on the port PORT. Stops it at the end of the block."""
        port = int(variables.setdefault("PORT", str(free_port())))
        name = f"service-{port}"
        with (
            (self.root / f"{name}.out").open("wb") as stdout,
            (self.root / f"{name}.err").open("wb") as stderr,
            # In a session of its own, so that only ``press_ctrl_c`` interrupts it.
            Popen(
                command,
                cwd=self.directory,
                env=self.environment(**variables),
                stdin=DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            ) as process,
        ):
            service = Service(process, port, Path(stdout.name), Path(stderr.name))
            try:
                yield service
            finally:
                service.stop()

    def processes(self) -> dict[int, str]:
        """Command lines, by process id, of the processes that use or mention this directory."""
        mark = os.fsencode(self.root)
        found = (process for process in Path("/proc").glob("[0-9]*") if _mentions(process, mark))
        return {int(process.name): _command(process) for process in found}

    def remaining(self) -> dict[int, str]:
        """The processes that are left after ``PATIENCE`` seconds."""
        eventually(lambda: not self.processes())
        return self.processes()

    def environment(self, **variables: str) -> dict[str, str]:
        """The given variables and the few without which no program runs."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        return base | variables


@contextmanager
def new_sandbox() -> Iterator[Sandbox]:
    """A new sandbox. At the end of the block, fails if processes remain, and kills them."""
    # Not in pytest's temporary directories, which the user nobody cannot enter: root's embedded
    # PostgreSQL may run as nobody.
    sandbox = Sandbox(Path(mkdtemp(prefix="todo-service-")).resolve())
    sandbox.root.chmod(0o711)
    sandbox.directory.mkdir()
    sandbox.home.mkdir()
    try:
        yield sandbox
    finally:
        left = sandbox.remaining()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(sandbox.root)
    assert not left


class Service:
    """A running program that answers HTTP at ``url``, with its output."""

    def __init__(self, process: Popen[bytes], port: int, stdout: Path, stderr: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._stdout = stdout
        self._stderr = stderr

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def client(self, token: str | None = None) -> httpx.Client:
        """An HTTP client of the service, with the bearer token if one is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False)

    def health(self) -> httpx.Response:
        """The response to a readiness probe."""
        with self.client() as client:
            return client.get("/health/ready")

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_it_answers(self) -> None:
        """Return after the first response to a readiness probe, whatever its status."""
        assert eventually(lambda: self._has_answered() or self._has_ended()), (
            "the service does not answer"
        )
        assert not self._has_ended(), f"the service has ended: {self.stderr}{self.stdout}"

    def wait_until_it_says(self, text: str) -> str:
        """All that the program has written to stderr, once that contains the text."""
        assert eventually(lambda: text in self.stderr), f"{text!r} is not in {self.stderr}"
        return self.stderr

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the process group, as a terminal does."""
        self.send_to_group(signal.SIGINT)

    def send_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the main process and to its workers."""
        os.killpg(self._process.pid, number)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process only."""
        self._process.send_signal(number)

    def workers(self) -> set[int]:
        """The process ids of the workers."""
        main = Path(f"/proc/{self._process.pid}")
        children = _read(main / "task" / main.name / "children").split()
        commands = {int(pid): _command(Path(f"/proc/{int(pid)}")) for pid in children}
        return {pid for pid, command in commands.items() if "resource_tracker" not in command}

    def exit_code(self) -> int:
        """The exit code, negative for a signal. Raises TimeoutExpired after ``STOPS_WITHIN``."""
        return self._process.wait(STOPS_WITHIN)

    def stop(self) -> None:
        """Terminate the program if it still runs: by SIGTERM, then by SIGKILL."""
        self._process.terminate()
        with suppress(TimeoutExpired):
            self._process.wait(STOPS_WITHIN)
        self._process.kill()

    def _has_answered(self) -> bool:
        with suppress(httpx.TransportError):
            return self.listens() and bool(self.health().status_code)
        return False

    def _has_ended(self) -> bool:
        return self._process.poll() is not None


def _mentions(process: Path, mark: bytes) -> bool:
    return any(mark in _read(process / part) for part in ("cwd", "cmdline", "environ"))


def _command(process: Path) -> str:
    return _read(process / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _read(part: Path) -> bytes:
    with suppress(OSError):  # it has ended, or belongs to another user
        return os.fsencode(part.readlink()) if part.name == "cwd" else part.read_bytes()
    return b""
