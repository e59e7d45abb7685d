"""The embedded PostgreSQL: started, shared, interrupted and killed."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import mkdtemp
from typing import Final

import asyncpg
import pytest

import todo_adapters
from todo_adapters.embedded_postgres.launcher import SYSTEM_INSTALLATIONS, find_binaries
from todo_adapters.embedded_postgres.server import (
    EmbeddedPostgresError,
    embedded_postgres,
    running_url,
)

NOBODY: Final = 65534
PATIENCE: Final = 30  # seconds after which a test gives up

# Supervises a server until its standard input ends. After Ctrl-C it uses the database once more.
SUPERVISOR: Final = """
import asyncio, sys
from pathlib import Path
from todo_adapters.embedded_postgres.server import EmbeddedPostgresError, embedded_postgres

async def answer(url):
    import asyncpg
    connection = await asyncpg.connect(url)
    return await connection.fetchval("SELECT 'still there'")

try:
    with embedded_postgres(Path(sys.argv[1])) as url:
        try:
            print(url, flush=True)
            sys.stdin.read()
        except KeyboardInterrupt:
            print(asyncio.run(answer(url)))
except EmbeddedPostgresError as error:
    print(error)
"""
# The import path of a Python outside the virtual environment.
PACKAGES: Final = f"{Path(todo_adapters.__file__).parents[1]}:{Path(asyncpg.__file__).parents[1]}"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops orphans")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


@contextmanager
def new_sandbox() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's. Fails if a process stays in it."""
    sandbox = Path(mkdtemp(prefix="todo-test-"))
    sandbox.chmod(0o711)
    try:
        yield sandbox
        assert remaining(sandbox) == []
    finally:
        shutil.rmtree(sandbox, ignore_errors=True)


@pytest.fixture
def sandbox() -> Iterator[Path]:
    with new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a cluster, so that starts are fast."""
    with new_sandbox() as sandbox:
        with embedded_postgres(sandbox / "db"):
            pass
        yield sandbox / "db"


@contextmanager
def renamed(directory: Path, name: str) -> Iterator[Path]:
    """The directory under another name."""
    other = directory.rename(directory.with_name(name))
    try:
        yield other
    finally:
        assert remaining(other) == []
        other.rename(directory)


@pytest.fixture
def python_for_all() -> str:
    """A Python that every user can run, unlike one in the home directory of root."""
    for python in (sys.executable, "/usr/bin/python3"):
        with supervisor(Path("/dev/null"), python, NOBODY) as process:
            if "/dev/null" in output_line(process):
                return python
    pytest.skip("the user nobody can run no Python here")


@pytest.fixture
def no_namespaces(sandbox: Path) -> Mapping[str, str]:
    """The environment of a root that cannot make namespaces, as in most containers."""
    programs = sandbox / "bin"
    programs.mkdir()
    (programs / "test").symlink_to(shutil.which("test") or "")
    return os.environ | {"PATH": str(programs)}


@contextmanager
def supervisor(
    directory: Path,
    python: str = sys.executable,
    user: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Popen[str]]:
    """Another process that supervises a server in the directory."""
    # env reports a Python that the user cannot run; Popen would raise.
    with Popen(
        ["/usr/bin/env", python, "-c", SUPERVISOR, str(directory)],
        stdin=PIPE,
        stdout=PIPE,
        text=True,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=None if user is None else (),
        env={**environment, "PYTHONPATH": PACKAGES},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_line(process: Popen[str]) -> str:
    """The next line of the standard output."""
    assert process.stdout
    return process.stdout.readline().strip()


def value(url: str, statement: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def remaining(directory: Path) -> list[int]:
    """The processes of the directory that do not end in time."""
    deadline = time.monotonic() + PATIENCE
    while (found := processes(directory)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def processes(directory: Path) -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").glob("[0-9]*") if belongs_to(directory, entry)
    ]


def belongs_to(directory: Path, process: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        return (
            os.fsencode(directory) in command or directory in (process / "cwd").readlink().parents
        )
    except OSError:  # the process has ended
        return False


def ownership(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """Mode, user and group of each."""
    stats = {path: path.lstat() for path in paths}
    return {path: (stat.st_mode, stat.st_uid, stat.st_gid) for path, stat in stats.items()}


def owners(directory: Path) -> set[int]:
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


class TestFirstStart:
    def test_creates_a_utf8_database_that_ignores_case_in_every_script(
        self, directory: Path
    ) -> None:
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT current_database()") == "todo"
            assert value(url, "SHOW server_encoding") == "UTF8"
            assert value(url, "SELECT 'ÉCOLE' ILIKE 'école' AND 'ЖУК' ILIKE 'жук'")

    def test_creates_files_that_other_users_cannot_open(self, directory: Path) -> None:
        with embedded_postgres(directory):
            for path in (directory, directory / "data", directory / ".s.PGSQL.5432"):
                assert path.stat().st_mode & 0o077 == 0, path

    def test_changes_nothing_outside_its_directory(self, sandbox: Path) -> None:
        outside = [sandbox, *sandbox.parents]
        before = ownership(outside)
        with embedded_postgres(sandbox / "db"):
            pass
        assert ownership(outside) == before
        assert list(sandbox.iterdir()) == [sandbox / "db"]

    def test_is_reported_and_replaces_an_incomplete_cluster(self, sandbox: Path) -> None:
        reports: list[str] = []
        (sandbox / "db" / "data.new" / "global").mkdir(parents=True)
        (sandbox / "db" / "data.new" / "PG_VERSION").write_text("18\n")
        with embedded_postgres(sandbox / "db", report=reports.append) as url:
            assert value(url, "SELECT 1") == 1
        assert not (sandbox / "db" / "data.new").exists()
        assert reports == [f"Creating a new database in {sandbox}/db."]

    def test_uses_the_programs_of_the_system_without_the_wheel(
        self, sandbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not list(SYSTEM_INSTALLATIONS.glob("*/bin/initdb")):
            pytest.skip(f"no PostgreSQL in {SYSTEM_INSTALLATIONS}")
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        with embedded_postgres(sandbox / "db") as url:
            assert value(url, "SELECT 'ÉCOLE' ILIKE 'école'")

    def test_without_any_programs_says_what_to_install(
        self, sandbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        with pytest.raises(EmbeddedPostgresError, match=r"install todo-api\[embedded\], or set DA"):
            find_binaries(system=sandbox)

    def test_prefers_the_newest_programs_of_the_system(
        self, sandbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        for version in ("9.6", "17", "18", "16"):
            (sandbox / version / "bin").mkdir(parents=True)
        for version in ("9.6", "17", "16"):
            (sandbox / version / "bin" / "initdb").touch()
        assert find_binaries(system=sandbox) == sandbox / "17" / "bin"


class TestLaterStart:
    def test_finds_the_data_and_reports_nothing(self, directory: Path) -> None:
        reports: list[str] = []
        with embedded_postgres(directory) as url:
            value(url, "CREATE TABLE stopped AS SELECT 42 AS answer")
        with embedded_postgres(directory, report=reports.append) as url:
            assert value(url, "SELECT answer FROM stopped") == 42
        assert reports == []

    def test_starts_a_new_log(self, directory: Path) -> None:
        (directory / "postgres.log").write_text("yesterday")
        with embedded_postgres(directory):
            assert "yesterday" not in (directory / "postgres.log").read_text()

    def test_ignores_the_pid_files_and_sockets_of_a_dead_server(self, directory: Path) -> None:
        alive = 1  # the pid of a dead server may belong to another process by now
        (directory / "data" / "postmaster.pid").write_text(
            f"{alive}\n{directory}/data\n1\n5432\n{directory}\n\n1 1\nready   \n"
        )
        (directory / ".s.PGSQL.5432").touch()
        (directory / ".s.PGSQL.5432.lock").write_text(f"{alive}\n")

        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT 1") == 1

    def test_that_fails_names_the_reason_and_the_log(
        self, sandbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(sandbox)
        data = sandbox / "db" / "data"
        data.mkdir(parents=True, mode=0o700)
        (data / "PG_VERSION").write_text("12\n")
        (data / "postgresql.conf").touch()
        with pytest.raises(EmbeddedPostgresError) as failure, embedded_postgres(Path("db")):
            pass
        assert "initialized by PostgreSQL version 12" in str(failure.value)
        assert str(failure.value).endswith("(see db/postgres.log).")


class TestDirectory:
    @pytest.mark.parametrize(
        "name", ["long" * 50, "with spaces, commas & 'quotes'", "50% + ümläut@日本"]
    )
    def test_may_have_any_name(self, directory: Path, name: str) -> None:
        with renamed(directory, name) as other:
            with embedded_postgres(other) as url:
                assert value(url, "SELECT 1") == 1
                assert running_url(other) == url
                private = (other / "socket").readlink()
                assert private.stat().st_mode & 0o777 == 0o700
            assert not private.exists()

    @linux
    def test_of_the_socket_is_removed_by_the_start_after_a_kill(self, directory: Path) -> None:
        with renamed(directory, "long" * 50) as other:
            with supervisor(other) as process:
                output_line(process)
            private = (other / "socket").readlink()
            with embedded_postgres(other):
                assert not private.exists()

    @pytest.mark.parametrize("path", ["file", "file/db"])
    def test_that_is_a_file_is_refused_by_name(self, sandbox: Path, path: str) -> None:
        (sandbox / "file").touch()
        with (
            pytest.raises(EmbeddedPostgresError, match=f"{sandbox}/{path} .*set DATABASE_URL"),
            embedded_postgres(sandbox / path),
        ):
            pass


class TestSharing:
    def test_gives_a_second_process_the_server_of_the_first(self, directory: Path) -> None:
        with embedded_postgres(directory) as url:
            with supervisor(directory) as second:
                assert output_line(second) == url
                second.communicate(timeout=PATIENCE)
            assert second.returncode == 0
            assert value(url, "SELECT 1") == 1

    @linux
    def test_works_for_two_processes_that_start_at_the_same_time(self, sandbox: Path) -> None:
        started = "SELECT pg_postmaster_start_time()"
        with supervisor(sandbox / "db") as one, supervisor(sandbox / "db") as other:
            assert value(output_line(one), started) == value(output_line(other), started)

    @pytest.mark.parametrize(
        ("lock", "step"),
        [("supervisor.lock", "another process"), ("server.lock", "the end of an earlier server")],
    )
    def test_waits_for_a_lock_with_a_report_and_a_timeout(
        self, directory: Path, lock: str, step: str
    ) -> None:
        reports: list[str] = []
        with (directory / lock).open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with (
                pytest.raises(EmbeddedPostgresError, match=f"see {directory}/postgres.log"),
                embedded_postgres(directory, report=reports.append, timeout=1.1),
            ):
                pass
        (report,) = reports
        assert report.startswith(f"Waiting for {step}")

    def test_is_possible_only_while_a_server_runs(self, directory: Path) -> None:
        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert running_url(directory) == url
        assert running_url(directory) is None
        assert running_url(directory / "elsewhere") is None


class TestEnd:
    @linux
    def test_follows_the_end_of_the_block_even_after_an_error(self, directory: Path) -> None:
        with suppress(ZeroDivisionError), embedded_postgres(directory):
            assert processes(directory)
            raise ZeroDivisionError
        assert processes(directory) == []

    @linux
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    def test_follows_the_death_of_the_supervisor(
        self, directory: Path, number: signal.Signals
    ) -> None:
        with supervisor(directory) as process:
            output_line(process)
            assert len(processes(directory)) > 1
            process.send_signal(number)
            process.wait(PATIENCE)
            assert remaining(directory) == []

    @linux
    def test_is_awaited_by_the_next_supervisor(self, directory: Path) -> None:
        with supervisor(directory) as process:
            value(output_line(process), "CREATE TABLE killed AS SELECT 42 AS answer")
        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT answer FROM killed") == 42

    @linux
    def test_of_a_supervisor_in_its_first_start_does_not_disturb_the_next(
        self, sandbox: Path
    ) -> None:
        with supervisor(sandbox / "db") as process:
            deadline = time.monotonic() + PATIENCE
            while not (sandbox / "db" / "data.new").exists():
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.kill()
            assert remaining(sandbox / "db") == []
        with embedded_postgres(sandbox / "db") as url:
            assert value(url, "SELECT 1") == 1

    @linux
    def test_does_not_follow_ctrl_c_before_the_supervisor_ends_it(self, directory: Path) -> None:
        with supervisor(directory) as process:
            output_line(process)
            os.killpg(process.pid, signal.SIGINT)
            assert output_line(process) == "still there"
            process.wait(PATIENCE)


@as_root
class TestUser:
    def test_may_be_unprivileged(self, sandbox: Path, python_for_all: str) -> None:
        os.chown(sandbox, NOBODY, NOBODY)
        with supervisor(sandbox / "db", python_for_all, NOBODY) as process:
            assert value(output_line(process), "SELECT 1") == 1
            assert owners(sandbox / "db") == {NOBODY}

    def test_root_owns_every_file_where_the_kernel_allows_namespaces(self, directory: Path) -> None:
        if subprocess.run(["/usr/bin/unshare", "--user", "true"], check=False).returncode:
            pytest.skip("the kernel forbids namespaces")
        with embedded_postgres(directory):
            assert owners(directory) == {0}

    def test_root_becomes_nobody_where_the_kernel_forbids_namespaces(
        self,
        directory: Path,
        sandbox: Path,
        no_namespaces: Mapping[str, str],
        python_for_all: str,
    ) -> None:
        outside = ownership(sandbox.parents)
        db = shutil.copytree(directory, sandbox / "db")
        for _ in range(2):
            with supervisor(db, environment=no_namespaces) as process:
                assert value(output_line(process), "SELECT 1") == 1
                assert owners(db) == {NOBODY}
        assert ownership(sandbox.parents) == outside
        with supervisor(db, python_for_all, NOBODY) as process:
            assert value(output_line(process), "SELECT 1") == 1
        with embedded_postgres(db) as url:
            assert value(url, "SELECT 1") == 1

    def test_root_is_refused_a_directory_that_nobody_cannot_reach(
        self, sandbox: Path, no_namespaces: Mapping[str, str]
    ) -> None:
        sandbox.chmod(0o700)
        with supervisor(sandbox / "db", environment=no_namespaces) as process:
            assert f"cannot reach both {sandbox}/db and" in output_line(process)
        assert owners(sandbox / "db") == {0}
