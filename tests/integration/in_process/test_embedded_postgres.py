"""The embedded PostgreSQL: real ones, started, shared, interrupted and killed."""

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

from todo_adapters.embedded_postgres import server as embedded
from todo_adapters.embedded_postgres.server import (
    EmbeddedPostgresError,
    embedded_postgres,
    running_url,
)

NOBODY: Final = 65534
PATIENCE: Final = 30  # seconds after which what should have happened is not going to

# Keeps a database until its input ends. Ctrl-C makes it use the database once more before.
KEEPER: Final = """
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
# Where a Python finds this project and the programs without the virtual environment.
PACKAGES: Final = f"{Path(embedded.__file__).parents[2]}:{Path(asyncpg.__file__).parents[1]}"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends orphans")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@contextmanager
def scratch() -> Iterator[Path]:
    """A place that every user can reach, as pytest's own are not. Nothing may be left running."""
    place = Path(mkdtemp(prefix="todo-test-"))
    place.chmod(0o711)
    try:
        yield place
        assert remaining(place) == []
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as place:
        yield place


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory whose first start is over."""
    with scratch() as place:
        with embedded_postgres(place / "db"):
            pass
        yield place / "db"


@contextmanager
def renamed(directory: Path, name: str) -> Iterator[Path]:
    """The directory under another name for a while."""
    other = directory.rename(directory.with_name(name))
    try:
        yield other
    finally:
        assert remaining(other) == []
        other.rename(directory)


@pytest.fixture
def python_for_all() -> str:
    """A Python that every user can run, as the one in root's home is not."""
    for python in (sys.executable, "/usr/bin/python3"):
        with keeper(Path("/dev/null"), python, NOBODY) as process:
            if "is a file" in said(process):
                return python
    pytest.skip("no Python here is within nobody's reach")


@pytest.fixture
def no_namespaces(place: Path) -> Mapping[str, str]:
    """The environment of a root that cannot step down, as in most containers."""
    programs = place / "bin"
    programs.mkdir()
    (programs / "test").symlink_to(shutil.which("test") or "")
    return os.environ | {"PATH": str(programs)}


@contextmanager
def keeper(
    directory: Path,
    python: str = sys.executable,
    user: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Popen[str]]:
    """Another process that keeps a database in the directory."""
    # Through env, so that a Python out of reach is a keeper that says nothing.
    with Popen(
        ["/usr/bin/env", python, "-c", KEEPER, str(directory)],
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


def said(process: Popen[str]) -> str:
    """The next line that the keeper says."""
    assert process.stdout
    return process.stdout.readline().strip()


def value(url: str, statement: str) -> object:
    async def fetched() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetched())


def remaining(directory: Path) -> list[int]:
    """The processes that still work for the directory, when they have had time to end."""
    deadline = time.monotonic() + PATIENCE
    while (found := processes(directory)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def processes(directory: Path) -> list[int]:
    return [
        int(entry.name) for entry in Path("/proc").glob("[0-9]*") if works_for(directory, entry)
    ]


def works_for(directory: Path, process: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
        return (
            os.fsencode(directory) in command or directory in (process / "cwd").readlink().parents
        )
    except OSError:  # it ended meanwhile
        return False


def ownership(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """Mode, user and group of each."""
    stats = {path: path.lstat() for path in paths}
    return {path: (stat.st_mode, stat.st_uid, stat.st_gid) for path, stat in stats.items()}


def owners(directory: Path) -> set[int]:
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


class TestFirstStart:
    def test_makes_a_database_that_knows_the_letters_of_every_script(self, directory: Path) -> None:
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT current_database()") == "todo"
            assert value(url, "SHOW server_encoding") == "UTF8"
            assert value(url, "SELECT 'ÉCOLE' ILIKE 'école' AND 'ЖУК' ILIKE 'жук'")

    def test_opens_it_to_no_other_user(self, directory: Path) -> None:
        with embedded_postgres(directory):
            for path in (directory, directory / "data", directory / ".s.PGSQL.5432"):
                assert path.stat().st_mode & 0o077 == 0, path

    def test_changes_mode_and_owner_of_nothing_outside(self, place: Path) -> None:
        outside = [place, *place.parents]
        before = ownership(outside)
        with embedded_postgres(place / "db"):
            pass
        assert ownership(outside) == before
        assert list(place.iterdir()) == [place / "db"]

    def test_is_reported_and_does_not_mind_one_that_was_cut_short(self, place: Path) -> None:
        reports: list[str] = []
        (place / "db" / "data.new" / "global").mkdir(parents=True)
        (place / "db" / "data.new" / "PG_VERSION").write_text("18\n")
        with embedded_postgres(place / "db", report=reports.append) as url:
            assert value(url, "SELECT 1") == 1
        assert not (place / "db" / "data.new").exists()
        assert reports == [f"Creating a new database in {place}/db."]

    def test_works_with_the_system_s_programs_where_the_wheel_has_none(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not list(embedded.SYSTEM_INSTALLATIONS.glob("*/bin/initdb")):
            pytest.skip(f"no PostgreSQL in {embedded.SYSTEM_INSTALLATIONS}")
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        with embedded_postgres(place / "db") as url:
            assert value(url, "SELECT 'ÉCOLE' ILIKE 'école'")

    def test_without_any_programs_says_what_to_install(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "embedded_postgres", None)
        monkeypatch.setattr(embedded, "SYSTEM_INSTALLATIONS", place)
        with (
            pytest.raises(
                EmbeddedPostgresError, match=r"install .* embedded-postgres, or set DATA"
            ),
            embedded_postgres(place / "db"),
        ):
            pass


class TestLaterStart:
    def test_finds_the_data_again_and_has_nothing_to_report(self, directory: Path) -> None:
        reports: list[str] = []
        with embedded_postgres(directory) as url:
            value(url, "CREATE TABLE stopped AS SELECT 42 AS answer")
        with embedded_postgres(directory, report=reports.append) as url:
            assert value(url, "SELECT answer FROM stopped") == 42
        assert reports == []

    def test_begins_the_log_anew(self, directory: Path) -> None:
        (directory / "postgres.log").write_text("yesterday")
        with embedded_postgres(directory):
            assert "yesterday" not in (directory / "postgres.log").read_text()

    def test_is_not_kept_off_by_the_traces_of_a_dead_server(self, directory: Path) -> None:
        alive = 1
        (directory / "data" / "postmaster.pid").write_text(
            f"{alive}\n{directory}/data\n1\n5432\n{directory}\n\n1 1\nready   \n"
        )
        (directory / ".s.PGSQL.5432").touch()
        (directory / ".s.PGSQL.5432.lock").write_text(f"{alive}\n")

        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT 1") == 1

    def test_that_fails_says_why_and_where_the_log_is(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(place)
        data = place / "db" / "data"
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
    def test_of_the_socket_goes_with_the_next_start_after_a_kill(self, directory: Path) -> None:
        with renamed(directory, "long" * 50) as other:
            with keeper(other) as process:
                said(process)
            private = (other / "socket").readlink()
            with embedded_postgres(other):
                assert not private.exists()

    @pytest.mark.parametrize("path", ["file", "file/db"])
    def test_that_cannot_be_one_is_named(self, place: Path, path: str) -> None:
        (place / "file").touch()
        with (
            pytest.raises(EmbeddedPostgresError, match=f"{place}/{path} .*set DATABASE_URL"),
            embedded_postgres(place / path),
        ):
            pass


class TestSharing:
    def test_gives_a_second_process_the_same_server_and_leaves_it_running(
        self, directory: Path
    ) -> None:
        with embedded_postgres(directory) as url:
            with keeper(directory) as second:
                assert said(second) == url
                second.communicate(timeout=PATIENCE)
            assert second.returncode == 0
            assert value(url, "SELECT 1") == 1

    @linux
    def test_lets_one_of_two_that_start_together_make_what_both_use(self, place: Path) -> None:
        started = "SELECT pg_postmaster_start_time()"
        with keeper(place / "db") as one, keeper(place / "db") as other:
            assert value(said(one), started) == value(said(other), started)

    @pytest.mark.parametrize(
        ("lock", "wait"), [("keeper.lock", "another process"), ("server.lock", "an earlier server")]
    )
    def test_is_given_up_after_a_long_wait_which_is_reported(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, lock: str, wait: str
    ) -> None:
        monkeypatch.setattr(embedded, "_REPORTED_AFTER", 0)
        monkeypatch.setattr(embedded, "_PATIENCE", 0.1)
        reports: list[str] = []
        with (directory / lock).open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with (
                pytest.raises(EmbeddedPostgresError, match=f"see {directory}/postgres.log"),
                embedded_postgres(directory, report=reports.append),
            ):
                pass
        (report,) = reports
        assert report.startswith(f"Waiting for {wait}")

    def test_can_be_asked_for_without_starting_anything(self, directory: Path) -> None:
        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert running_url(directory) == url
        assert running_url(directory) is None
        assert running_url(directory / "elsewhere") is None


class TestEnd:
    @linux
    def test_comes_with_the_end_of_the_block_even_for_an_error(self, directory: Path) -> None:
        with suppress(ZeroDivisionError), embedded_postgres(directory):
            assert processes(directory)
            raise ZeroDivisionError
        assert processes(directory) == []

    @linux
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    def test_comes_with_the_end_of_the_keeper(
        self, directory: Path, number: signal.Signals
    ) -> None:
        with keeper(directory) as process:
            said(process)
            assert len(processes(directory)) > 1
            process.send_signal(number)
            process.wait(PATIENCE)
            assert remaining(directory) == []

    @linux
    def test_is_awaited_by_a_keeper_that_starts_at_once(self, directory: Path) -> None:
        with keeper(directory) as process:
            value(said(process), "CREATE TABLE killed AS SELECT 42 AS answer")
        assert running_url(directory) is None
        with embedded_postgres(directory) as url:
            assert value(url, "SELECT answer FROM killed") == 42

    @linux
    def test_of_the_keeper_during_the_first_start_leaves_room_for_another(
        self, place: Path
    ) -> None:
        with keeper(place / "db") as process:
            deadline = time.monotonic() + PATIENCE
            while not (place / "db" / "data.new").exists():
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.kill()
            assert remaining(place / "db") == []
        with embedded_postgres(place / "db") as url:
            assert value(url, "SELECT 1") == 1

    @linux
    def test_waits_for_the_keeper_when_the_terminal_interrupts_all(self, directory: Path) -> None:
        with keeper(directory) as process:
            said(process)
            os.killpg(process.pid, signal.SIGINT)
            assert said(process) == "still there"
            process.wait(PATIENCE)


@as_root
class TestUser:
    def test_may_be_an_ordinary_one(self, place: Path, python_for_all: str) -> None:
        os.chown(place, NOBODY, NOBODY)
        with keeper(place / "db", python_for_all, NOBODY) as process:
            assert value(said(process), "SELECT 1") == 1
            assert owners(place / "db") == {NOBODY}

    def test_that_is_root_owns_everything_where_the_kernel_lets_root_step_down(
        self, directory: Path
    ) -> None:
        if subprocess.run(["/usr/bin/unshare", "--user", "true"], check=False).returncode:
            pytest.skip("root cannot step down here")
        with embedded_postgres(directory):
            assert owners(directory) == {0}

    def test_that_is_root_elsewhere_hands_the_directory_over_to_nobody(
        self,
        directory: Path,
        place: Path,
        no_namespaces: Mapping[str, str],
        python_for_all: str,
    ) -> None:
        outside = ownership(place.parents)
        db = shutil.copytree(directory, place / "db")
        for _ in range(2):
            with keeper(db, environment=no_namespaces) as process:
                assert value(said(process), "SELECT 1") == 1
                assert owners(db) == {NOBODY}
        assert ownership(place.parents) == outside
        with keeper(db, python_for_all, NOBODY) as process:
            assert value(said(process), "SELECT 1") == 1
        with embedded_postgres(db) as url:
            assert value(url, "SELECT 1") == 1

    def test_that_cannot_reach_the_directory_is_told_so(
        self, place: Path, no_namespaces: Mapping[str, str]
    ) -> None:
        place.chmod(0o700)
        with keeper(place / "db", environment=no_namespaces) as process:
            assert f"cannot reach both {place}/db and" in said(process)
        assert owners(place / "db") == {0}
