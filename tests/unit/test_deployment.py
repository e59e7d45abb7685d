"""The files that deploy the service agree with it and with each other."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
import yaml

from todo_api.cli import commands
from todo_api.routes import health
from todo_api.server import processes
from todo_api.server.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
MANIFESTS: Final = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
COMPOSE: Final = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
NGINX: Final = (DEPLOY / "nginx.conf").read_text()
PAGE: Final = (ROOT / "docs/deployment.md").read_text()

SETTINGS: Final = {name.upper() for name in Settings.model_fields}
PORT: Final = Settings.model_fields["port"].default
# Variables of others: Python and pip in the image, the PostgreSQL image, OpenTelemetry and Railway.
PYTHON: Final = {"PATH", "PYTHONDONTWRITEBYTECODE", "TMPDIR"}
PIP: Final = {"PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "PIP_ROOT_USER_ACTION"}
POSTGRES: Final = {"POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_USER"}
RAILWAY: Final = {"RAILWAY_DEPLOYMENT_DRAINING_SECONDS", "RAILWAY_DOCKERFILE_PATH"}
OTHERS: Final = {"NEW_DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}


def instructions() -> Sequence[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def arguments(instruction: str) -> Sequence[str]:
    return [rest for name, rest in instructions() if name == instruction]


def names(text: str) -> set[str]:
    """The variables that lines like ``NAME=value`` set."""
    return set(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=", text, re.MULTILINE))


def pods() -> Iterator[Mapping[str, Any]]:
    for manifest in MANIFESTS:
        if manifest["kind"] != "Service":
            yield manifest["spec"]["template"]["spec"]


def containers() -> Iterator[Mapping[str, Any]]:
    for pod in pods():
        yield from pod["containers"]


def pod_environment() -> Mapping[str, Mapping[str, Any]]:
    return {entry["name"]: entry for container in containers() for entry in container["env"]}


@pytest.mark.parametrize(
    ("used", "foreign"),
    [
        (set(re.findall(r"(\w+)=", " ".join(arguments("ENV")))), PYTHON | PIP),
        (set(COMPOSE["x-todo-api"]["environment"]), set()),
        (set(COMPOSE["services"]["postgres"]["environment"]), POSTGRES),
        (names((DEPLOY / ".env.example").read_text()), POSTGRES),
        (names((ROOT / ".env.example").read_text()), set()),
        (set(pod_environment()), set()),
        (set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", PAGE)), PYTHON | RAILWAY | OTHERS),
    ],
    ids=[
        *("Dockerfile", "compose service", "compose PostgreSQL", "deploy/.env.example"),
        *(".env.example", "Kubernetes", "docs/deployment.md"),
    ],
)
def test_every_variable_that_is_set_is_a_setting(used: set[str], foreign: set[str]) -> None:
    assert used
    assert used <= SETTINGS | foreign


def test_every_variable_of_the_compose_file_is_in_its_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == names((DEPLOY / ".env.example").read_text())


def test_no_secret_of_the_compose_file_has_a_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{\w*(?:PASSWORD|SECRET)\w*(..)", text)) == {":?"}


def test_the_kubernetes_manifests_refer_to_secrets_and_contain_none() -> None:
    assert {manifest["kind"] for manifest in MANIFESTS} == {"Deployment", "Job", "Service"}
    secret = {
        name for name in Settings.model_fields if "SecretStr" in repr(Settings.model_fields[name])
    }
    for name, entry in pod_environment().items():
        assert ("secretKeyRef" in entry.get("valueFrom", {})) == (name.lower() in secret), name


@pytest.mark.parametrize(
    "path", [path for rest in arguments("COPY") if "--" not in rest for path in rest.split()[:-1]]
)
def test_what_the_dockerfile_copies_is_there_and_in_the_build_context(path: str) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert (ROOT / path).exists()
    assert any(fnmatch(path, rule.removeprefix("!")) for rule in rules if rule.startswith("!"))


def test_every_file_listens_and_connects_to_the_default_port() -> None:
    pod_ports = [port["containerPort"] for c in containers() for port in c.get("ports", [])]
    devcontainer = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert arguments("EXPOSE") == [str(PORT)]
    assert COMPOSE["services"]["api"]["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert pod_ports == [PORT]
    assert devcontainer["forwardPorts"] == [PORT]
    assert re.findall(r"server 127\.0\.0\.1:(\d+)", NGINX) == [str(PORT)]
    assert f"internal_port = {PORT}\n" in PAGE


def test_whatever_stops_the_service_waits_longer_than_it_takes() -> None:
    (deployment,) = (m for m in MANIFESTS if m["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    unit = (DEPLOY / "systemd/todo-api.service").read_text()
    waits = {
        "compose": COMPOSE["services"]["api"]["stop_grace_period"].removesuffix("s"),
        "systemd": re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0],
        "Kubernetes": pod["terminationGracePeriodSeconds"]
        - container["lifecycle"]["preStop"]["sleep"]["seconds"],
        "Fly": re.findall(r'^kill_timeout = "(\d+)s"', PAGE, re.MULTILINE)[0],
        "Railway": re.findall(r"^RAILWAY_DEPLOYMENT_DRAINING_SECONDS=(\d+)$", PAGE, re.MULTILINE)[
            0
        ],
    }
    assert [
        name for name, seconds in waits.items() if int(seconds) <= processes.SHUTDOWN_TIMEOUT
    ] == []


def test_nginx_closes_idle_connections_before_the_service_does() -> None:
    (idle,) = re.findall(r"^ *keepalive_timeout (\d+)s;", NGINX, re.MULTILINE)
    services = Settings.model_fields["keep_alive_timeout"].default
    assert int(idle) < services
    assert f"{services} s" in PAGE


def test_every_probe_is_a_health_route() -> None:
    probes = {
        probe["httpGet"]["path"]
        for container in containers()
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    mentioned = set(re.findall(r"/health/\w+", PAGE + " ".join(arguments("HEALTHCHECK"))))
    assert probes | mentioned == {getattr(route, "path", None) for route in health.router.routes}


def test_pods_run_as_the_images_user_on_a_read_only_file_system() -> None:
    users = {str(pod["securityContext"]["runAsUser"]) for pod in pods()}
    assert {user.partition(":")[0] for user in arguments("USER")} == users
    assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in containers())


def test_the_pods_run_one_image() -> None:
    assert len({container["image"] for container in containers()}) == 1


def test_every_command_that_is_run_is_one_of_the_program() -> None:
    units = " ".join(path.read_text() for path in (DEPLOY / "systemd").glob("*.service"))
    run = {
        *(json.loads(command)[1] for command in arguments("CMD")),
        *(c["command"][1] for c in containers() if "command" in c),
        COMPOSE["services"]["migrate"]["command"][1],
        *re.findall(r"^ExecStart=\S+/todo-api (\w+)$", units, re.MULTILINE),
        *re.findall(r"`todo-api (\w+)`", PAGE),
    }
    known = {
        c.name or getattr(c.callback, "__name__", "") for c in commands.app.registered_commands
    }
    assert {"migrate", "serve"} <= run <= known


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_images_health_check_passes_only_if_the_service_is_healthy(
    status: int, exit_code: int
) -> None:
    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/live" else 404)
            self.end_headers()

    (check,) = arguments("HEALTHCHECK")
    _, *command = json.loads(check.partition("CMD ")[2])
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as service:
        Thread(target=service.serve_forever).start()
        port = str(service.server_address[1])
        result = subprocess.run(
            [sys.executable, *command], env=os.environ | {"PORT": port}, check=False
        )
        service.shutdown()
    assert result.returncode == exit_code
