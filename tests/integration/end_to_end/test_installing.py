"""The set-up in the Makefile: with every pip, and after interruptions, moves and a missing Python.

The checkout has the real Makefile and lock of pip. Its other locks have tiny packages: ``beta``
needs ``alpha[fast]``, ``gamma`` has a program named ``uv``, and the service prints its environment
and versions.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess
from typing import Final
from zipfile import ZipFile

import pytest

from support.programs import require

ROOT: Final = Path(__file__).parents[3]
LOCKED_PIP: Final = (
    (ROOT / "requirements-pip.lock").read_text().partition(" ")[0].removeprefix("pip==")
)
OLD_PIPS: Final = {
    "22.0.2": "682eabc4716bfce606aca8dab488e9c7b58b0737e9001004eb858cdafcd8dbdd",
    "23.2.1": "7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be",
}
# pip 22 does not run on Python 3.12.
PIPS: Final = ("22.0.2", "23.2.1", LOCKED_PIP)[sys.version_info >= (3, 12) :]
PATIENCE: Final = 120.0  # seconds

# The program that PYTHON names. Its environments get pip from a directory: ensurepip takes 6 s.
PYTHON: Final = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} "$@" --without-pip
for directory; do :; done
echo {pip} > "$directory/lib/python{version}/site-packages/pip.pth"
"""
INTERRUPTED_PYTHON: Final = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} "$@" --without-pip
kill -s INT 0
"""
OLD_PYTHON: Final = """#!/bin/sh
exec {python} -c "import sys; sys.version_info = (3, 9, 2)
$2"
"""
# Debian's Python without the package python3-venv.
PYTHON_WITHOUT_VENV: Final = """#!/bin/sh
exec {python} -c "import sys; sys.modules['ensurepip'] = None
$2"
"""

PYPROJECT: Final = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# With a file named "interrupt", the build is interrupted, after which a package has lost a program:
# pip generates programs last, when it already takes the package for installed.
BACKEND: Final = """import os, shutil, signal, sys
from pathlib import Path

def build_editable(directory, config_settings=None, metadata_directory=None):
    if Path("interrupt").exists():
        Path("interrupt").unlink()
        Path(sys.prefix, "bin", "uv").unlink()
        os.kill(0, signal.SIGINT)
        signal.pause()
    (wheel,) = Path("service").iterdir()
    return Path(shutil.copy(wheel, directory)).name
"""
SERVICE: Final = """import importlib.metadata, sys

def main():
    print(sys.prefix, *map(importlib.metadata.version, ("alpha", "pip")), *sys.argv[1:])
"""
UV: Final = """import sys

def main():
    print("uv", *sys.argv[1:])
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A directory with the Makefile, and a file ``python`` that creates environments."""

    directory: Path
    wheels: Path
    pips: Path

    @property
    def environment(self) -> Path:
        return self.directory / ".venv"

    def make(self, *arguments: str) -> CompletedProcess[str]:
        """The result of ``make``, in a process group of its own, which Ctrl-C interrupts."""
        return subprocess.run(
            (require("make"), "PYTHON=./python", *arguments),
            cwd=self.directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": f"{self.wheels} {self.pips}",
            },
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            start_new_session=True,
        )

    def run(self, alpha: str = "1.0") -> str:
        """What ``make run`` printed before the service started, in this checkout's environment."""
        result = self.make("run")
        printed, _, service = result.stdout.removesuffix("\n").rpartition("\n")
        assert service == f"{self.environment} {alpha} {LOCKED_PIP} dev", (
            result.stdout + result.stderr
        )
        assert not result.stderr
        return printed

    def refuses(self, *arguments: str) -> str:
        """The sentence with which ``make`` ends, before its own line."""
        result = self.make(*arguments)
        assert result.returncode == 2, result.stdout + result.stderr
        sentence, _, own = result.stderr.removesuffix("\n").rpartition("\n")
        assert own.startswith("make: *** "), result.stderr
        return sentence

    def lock(self, *names: str) -> None:
        """Lock these of the available packages for the service and for development."""
        lines = []
        for name in names:
            project, _, version = name.partition("==")
            (wheel,) = self.wheels.glob(f"{project.partition('[')[0]}-{version}-*.whl")
            lines.append(f"{name} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
        for lock in ("requirements.lock", "requirements-dev.lock"):
            (self.directory / lock).write_text("".join(lines))

    def use_python(self, script: str, pip: str = LOCKED_PIP) -> None:
        version = sysconfig.get_python_version()
        python = self.directory / "python"
        python.write_text(
            script.format(python=sys.executable, version=version, pip=self.pips / pip)
        )
        python.chmod(0o755)


def write_wheel(
    directory: Path,
    name: str,
    version: str,
    code: str = "",
    *,
    metadata: str = "",
    program: str = "",
) -> None:
    """A wheel with one module, and the program if it has a name: the module's ``main``."""
    directory.mkdir(exist_ok=True)
    information = f"{name}-{version}.dist-info"
    tag = "py3-none-any"
    with ZipFile(directory / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(
            f"{information}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        )
        wheel.writestr(
            f"{information}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        if program:
            entry_point = f"[console_scripts]\n{program} = {name}:main\n"
            wheel.writestr(f"{information}/entry_points.txt", entry_point)
        wheel.writestr(f"{information}/RECORD", "")


@pytest.fixture(scope="module")
def pips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of pips, and the content of each in a directory of its own."""
    directory = tmp_path_factory.mktemp("pips")
    download(ROOT / "requirements-pip.lock", directory)
    for version, digest in OLD_PIPS.items():
        lock = directory / f"{version}.lock"
        lock.write_text(f"pip=={version} --hash=sha256:{digest}\n")
        download(lock, directory)
    for wheel in directory.glob("*.whl"):
        ZipFile(wheel).extractall(directory / wheel.name.split("-")[1])
    return directory


def download(lock: Path, directory: Path) -> None:
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
    subprocess.run((*command, "-r", str(lock), "-d", str(directory)), check=True)


def new_checkout(parent: Path, pips: Path) -> Checkout:
    """A checkout in a directory whose name has a space, and nothing set up in it."""
    checkout = Checkout(parent / "to do", parent / "wheels", pips)
    checkout.directory.mkdir()
    for name in ("Makefile", "requirements-pip.lock"):
        shutil.copy(ROOT / name, checkout.directory)
    (checkout.directory / "pyproject.toml").write_text(PYPROJECT)
    (checkout.directory / "backend.py").write_text(BACKEND)
    write_service(checkout, needs="beta")
    for version in ("1.0", "1.1"):
        write_wheel(checkout.wheels, "alpha", version, metadata="Provides-Extra: fast\n")
    write_wheel(checkout.wheels, "beta", "1.0", metadata="Requires-Dist: alpha[fast]>=1.0\n")
    write_wheel(checkout.wheels, "gamma", "1.0", UV, program="uv")
    checkout.lock("alpha[fast]==1.0", "beta==1.0", "gamma==1.0")
    checkout.use_python(PYTHON)
    return checkout


def write_service(checkout: Checkout, *, needs: str) -> None:
    metadata = f"Requires-Dist: {needs}\n"
    directory = checkout.directory / "service"
    write_wheel(directory, "todo_api", "1", SERVICE, metadata=metadata, program="todo-api")


@pytest.fixture
def checkout(tmp_path: Path, pips: Path) -> Checkout:
    return new_checkout(tmp_path, pips)


@pytest.fixture(scope="module")
def used_checkout(tmp_path_factory: pytest.TempPathFactory, pips: Path) -> Checkout:
    return new_checkout(tmp_path_factory.mktemp("used"), pips)


@pytest.fixture
def ready(used_checkout: Checkout) -> Checkout:
    """A checkout that is set up. Tests share it, and leave it set up."""
    used_checkout.run()
    return used_checkout


@pytest.mark.parametrize("pip", PIPS)
def test_every_pip_installs_the_lock_and_no_later_release(checkout: Checkout, pip: str) -> None:
    checkout.use_python(PYTHON, pip)
    checkout.lock("alpha==1.0", "beta==1.0", "gamma==1.0")
    assert "Installing the service's dependencies" in checkout.run(alpha="1.0")


class TestReadyEnvironment:
    def test_is_used_without_a_word(self, ready: Checkout) -> None:
        assert not ready.run()

    def test_gets_the_development_packages_in_addition(self, ready: Checkout) -> None:
        result = ready.make(".venv/dev")
        assert result.returncode == 0, result.stderr
        assert "Installing the development dependencies" in result.stdout
        assert "Creating" not in result.stdout
        assert not ready.run()

    def test_has_only_the_packages_of_a_new_lock(self, checkout: Checkout) -> None:
        checkout.run()
        checkout.lock("alpha[fast]==1.1", "beta==1.0")
        checkout.run(alpha="1.1")
        assert not (checkout.environment / "bin" / "uv").exists()


def remove_python(checkout: Checkout) -> None:
    python = checkout.environment / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")


def replace_python(checkout: Checkout) -> None:
    """Another minor version does not look into the packages of the one before."""
    (packages,) = (checkout.environment / "lib").glob("python3.*")
    packages.rename(packages.with_name("python3.0"))


class TestUnusableEnvironment:
    @pytest.mark.parametrize("damage", [remove_python, replace_python])
    def test_is_created_again(self, ready: Checkout, damage: Callable[[Checkout], None]) -> None:
        damage(ready)
        assert "Creating the virtual environment" in ready.run()

    def test_is_created_again_where_the_checkout_was_moved(self, checkout: Checkout) -> None:
        checkout.run()
        moved = replace(checkout, directory=checkout.directory.with_name("moved"))
        checkout.directory.rename(moved.directory)
        assert "Creating the virtual environment" in moved.run()

    def test_is_created_again_in_a_copy_of_the_checkout(
        self, ready: Checkout, tmp_path: Path
    ) -> None:
        copy = replace(ready, directory=tmp_path / "copy")
        shutil.copytree(ready.directory, copy.directory, symlinks=True)
        assert "Creating the virtual environment" in copy.run()


class TestInterruptedSetUp:
    def test_of_the_environment_is_repeated(self, checkout: Checkout) -> None:
        checkout.use_python(INTERRUPTED_PYTHON)
        # 2: make lost the race for its interrupted child ("wait: No child processes").
        assert checkout.make("run").returncode in {-signal.SIGINT, 2}
        assert checkout.environment.exists()
        checkout.use_python(PYTHON)
        checkout.run()

    def test_of_the_packages_leaves_no_half_of_a_package(self, checkout: Checkout) -> None:
        (checkout.directory / "interrupt").touch()
        assert checkout.make("run").returncode == -signal.SIGINT
        checkout.run()
        assert (checkout.environment / "bin" / "uv").exists()


class TestRefusal:
    def test_names_the_python_that_does_not_run(self, checkout: Checkout) -> None:
        assert checkout.refuses("run", "PYTHON=python3.99") == (
            "python3.99 does not run: install Python 3.11 or later, or name one: "
            "make PYTHON=python3.12 ..."
        )

    def test_names_the_version_that_is_too_old(self, checkout: Checkout) -> None:
        checkout.use_python(OLD_PYTHON)
        assert checkout.refuses("run") == (
            "./python is Python 3.9: install 3.11 or later, or name one: make PYTHON=python3.12 ..."
        )

    def test_names_the_package_without_which_there_are_no_environments(
        self, checkout: Checkout
    ) -> None:
        checkout.use_python(PYTHON_WITHOUT_VENV)
        assert checkout.refuses("run") == (
            "./python has no ensurepip: on Debian and Ubuntu, install the package "
            f"python{sysconfig.get_python_version()}-venv."
        )

    @pytest.mark.parametrize("directory", [".", "src", "/venv"])
    def test_empties_no_directory_that_may_have_something_else_in_it(
        self, checkout: Checkout, directory: str
    ) -> None:
        assert "must begin with .venv" in checkout.make("run", f"VENV={directory}").stderr
        assert (checkout.directory / "Makefile").exists()


class TestLocksThatDoNotFit:
    def test_each_other_are_reported(self, checkout: Checkout) -> None:
        checkout.lock("beta==1.0")
        assert "beta 1.0 requires alpha, which is not installed." in checkout.refuses("run")

    def test_the_project_are_reported(self, checkout: Checkout) -> None:
        write_service(checkout, needs="delta")
        assert checkout.refuses("run").splitlines() == [
            "todo-api 1 requires delta, which is not installed.",
            "The locks do not fit pyproject.toml: run make lock.",
        ]

    def test_can_be_written_again(self, checkout: Checkout) -> None:
        write_service(checkout, needs="delta")
        result = checkout.make("lock")
        assert result.returncode == 0, result.stderr
        assert "uv pip compile" in result.stdout


class TestLocks:
    @pytest.mark.parametrize("name", ["requirements.lock", "requirements-serve.lock"])
    def test_have_the_versions_that_are_tested(self, name: str) -> None:
        assert locked(name) <= locked("requirements-dev.lock")

    @pytest.mark.parametrize(
        "name", ["requirements.lock", "requirements-dev.lock", "requirements-serve.lock"]
    )
    def test_keep_extras(self, name: str) -> None:
        """Without them pip before 23.3 refuses hashes wherever it resolves dependencies."""
        assert "sqlalchemy[asyncio]==" in (ROOT / name).read_text()

    def test_of_production_has_no_embedded_postgresql(self) -> None:
        assert not [line for line in locked("requirements-serve.lock") if "embedded" in line]


def locked(name: str) -> set[str]:
    """The packages of a lock with version and marker."""
    lines = (ROOT / name).read_text().splitlines()
    return {line.removesuffix(" \\") for line in lines if "==" in line and line[0] not in " #"}
