"""The real ``todo-api``, run as a person runs it, and watched until nothing of it remains."""

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
PATIENCE: Final = 60.0  # seconds after which what should have happened is not going to
STOPS_WITHIN: Final = 10.0  # seconds

_Answer = TypeVar("_Answer")


def eventually(ask: Callable[[], _Answer]) -> _Answer:
    """The first answer that is true, or the last one when it is too late for that."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return answer


def refusal(result: CompletedProcess[str]) -> str:
    """What a program that refused to work said instead: one sentence, and nothing else."""
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    name, _, sentence = result.stderr.removesuffix("\n").partition(": ")
    assert name == "todo-api"
    assert "\n" not in sentence, sentence
    return sentence


@dataclass(frozen=True, slots=True)
class Workplace:
    """A directory to work in, with an empty home beside it and an environment that says no more."""

    root: Path
    program: str = PROGRAM

    @property
    def directory(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def todo_api(self, *arguments: str, **variables: str) -> CompletedProcess[str]:
        """What came of the command."""
        return self.run(self.program, *arguments, **variables)

    def run(self, *command: str, **variables: str) -> CompletedProcess[str]:
        """What came of any program."""
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
        """The service that ``todo-api`` with these arguments is, from its first answer on."""
        with self.start(self.program, *arguments, **variables) as service:
            service.wait_until_it_answers()
            yield service

    @contextmanager
    def start(self, *command: str, **variables: str) -> Iterator["Service"]:
        """A program that is going to be a service at the port PORT, stopped at the end."""
        port = int(variables.setdefault("PORT", str(free_port())))
        name = f"service-{port}"
        with (
            (self.root / f"{name}.out").open("wb") as stdout,
            (self.root / f"{name}.err").open("wb") as stderr,
            # In a session of its own: no terminal's Ctrl-C but ``press_ctrl_c`` reaches it.
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
        """The command lines of the processes that work here or are told of this place, by id."""
        mark = os.fsencode(self.root)
        found = (process for process in Path("/proc").glob("[0-9]*") if _mentions(process, mark))
        return {int(process.name): _command(process) for process in found}

    def remaining(self) -> dict[int, str]:
        """Those that are still there when they have had time to end."""
        eventually(lambda: not self.processes())
        return self.processes()

    def environment(self, **variables: str) -> dict[str, str]:
        """The variables, and those without which nothing runs."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        return base | variables


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A new workplace. Fails if processes remain when it is left, and ends them."""
    # Not below pytest's temporary directories: an embedded PostgreSQL of root's may run as nobody.
    place = Workplace(Path(mkdtemp(prefix="todo-service-")).resolve())
    place.root.chmod(0o711)
    place.directory.mkdir()
    place.home.mkdir()
    try:
        yield place
    finally:
        left = place.remaining()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(place.root)
    assert not left


class Service:
    """A program that answers HTTP at ``url``, and what it has written."""

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
        """Somebody who asks it: the bearer of the token, or a stranger."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False)

    def health(self) -> httpx.Response:
        """Whether it is ready."""
        with self.client() as anybody:
            return anybody.get("/health/ready")

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_it_answers(self) -> None:
        """Return once it has answered whether it is ready, whatever the answer is."""
        assert eventually(lambda: self._has_answered() or self._has_ended()), "it never answers"
        assert not self._has_ended(), f"it has ended: {self.stderr}{self.stdout}"

    def wait_until_it_says(self, text: str) -> str:
        """All that it has written to stderr once the text is there."""
        assert eventually(lambda: text in self.stderr), f"{text!r} is not in {self.stderr}"
        return self.stderr

    def press_ctrl_c(self) -> None:
        """Interrupt the whole foreground job, as a terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)

    def send(self, number: signal.Signals) -> None:
        """Signal the main process alone."""
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Its exit code, negative for a signal. Raises TimeoutExpired unless it ends in time."""
        return self._process.wait(STOPS_WITHIN)

    def stop(self) -> None:
        """End it, unless it has ended: by SIGTERM, and by SIGKILL if that is ignored."""
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
    with suppress(OSError):  # it has ended meanwhile, or is none of ours
        return os.fsencode(part.readlink()) if part.name == "cwd" else part.read_bytes()
    return b""
