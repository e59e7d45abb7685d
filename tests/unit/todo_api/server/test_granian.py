"""What keeps the server from starting."""

import tempfile
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from support.ports import free_port
from todo_api.server.granian import serve
from todo_api.server.settings import ConfigurationError, Settings


def load_app() -> ASGIApp:
    raise AssertionError("the server must not start")


@pytest.mark.parametrize("variables", [{"WORKERS": "2"}, {"METRICS": "9090"}], ids=str)
def test_without_a_writable_temporary_directory_several_processes_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"PORT": str(free_port()), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="set TMPDIR to a writable directory"):
        serve(Settings.read(), load_app)
