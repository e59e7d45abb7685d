"""The forge's workflows, and what else runs the project's commands, run commands that exist."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github/workflows").glob("*.yml"))


def jobs() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            yield f"{path.stem}/{name}", job


def steps() -> Iterator[Mapping[str, Any]]:
    for _, job in jobs():
        yield from job.get("steps", [])


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_that_is_called_exists() -> None:
    devcontainer = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    commands = [step["run"] for step in steps() if "run" in step]
    commands.append(devcontainer["postAttachCommand"])
    called = set(re.findall(r"^make ([a-z-]+)", "\n".join(commands), re.MULTILINE))
    assert {"check", "test", "test-all", "build", "run"} <= called <= targets()


@pytest.mark.parametrize(
    "action",
    sorted({step["uses"] for step in steps() if "uses" in step}),
)
def test_every_action_is_pinned_by_its_commit_with_the_version_in_a_comment(action: str) -> None:
    pinned = re.compile(rf"{re.escape(action)} # v\d+\.\d+\.\d+$", re.MULTILINE)
    text = "".join(path.read_text() for path in WORKFLOWS)
    assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
    assert len(pinned.findall(text)) == text.count(action)


@pytest.mark.parametrize(("name", "job"), list(jobs()), ids=[name for name, _ in jobs()])
def test_every_job_has_a_time_limit_or_calls_a_workflow(name: str, job: Mapping[str, Any]) -> None:
    assert job.get("timeout-minutes") or job["uses"] == "./.github/workflows/ci.yml", name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_only_read_unless_a_job_says_otherwise(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_the_newest_releases_are_tested_without_upper_bounds(tmp_path: Path) -> None:
    (drop,) = (s["run"] for s in steps() if s.get("name") == "Drop the upper bounds")
    project = tmp_path / "pyproject.toml"
    text = (ROOT / "pyproject.toml").read_text()
    bounded = text.replace('"fastapi>=', '"granian>=2.8,<2.9", "starlette>=1.0, <=1.2", "fastapi>=')
    assert bounded != text
    project.write_text(bounded)

    subprocess.run(["/bin/bash", "-ec", drop], cwd=tmp_path, check=True)

    before, after = (tomllib.loads(toml)["project"] for toml in (bounded, project.read_text()))
    requirements = [Requirement(line) for line in after["dependencies"]]
    assert [r.name for r in requirements] == [Requirement(d).name for d in before["dependencies"]]
    assert {bound.operator for r in requirements for bound in r.specifier} == {">="}


def test_pre_commit_runs_the_tools_of_make_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    tool = re.compile(r"bin/(ruff \w+|[\w-]+)")
    assert tool.findall(" ".join(hooks)) == tool.findall(recipe.replace("$(BIN)", "bin"))


def test_dependabot_looks_into_directories_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
    assert all((ROOT / update["directory"].lstrip("/")).is_dir() for update in config["updates"])
