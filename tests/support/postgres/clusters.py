"""A PostgreSQL cluster that is made once per test run, and copied for every server after that."""

import fcntl
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from todo_adapters.embedded_postgres.server import embedded_postgres

# The variable with the directory of the test run, which all of its processes share.
RUN_DIRECTORY: Final = "TODO_TESTS_RUN_DIRECTORY"


def copy_cluster(directory: Path) -> None:
    """Give a directory for ``embedded_postgres`` what a first start leaves there.

    A copy takes a tenth of the time of initdb, and its servers do not wait for the disk: nothing
    in tests has to survive a power cut.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(_cluster() / "data", directory / "data")


@cache
def _cluster() -> Path:
    directory = Path(os.environ[RUN_DIRECTORY], "postgres")
    with directory.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            with embedded_postgres(directory):
                pass
            with (directory / "data" / "postgresql.conf").open("a") as configuration:
                configuration.write("fsync = off\n")
    return directory
