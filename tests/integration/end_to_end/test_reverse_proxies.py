"""The service behind Debian's nginx and Apache, with compression and under a path prefix."""

import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from string import Template
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx
import pytest

from support.frontend import AUTH_SETTINGS, as_user
from support.ports import free_port
from support.programs import require
from support.service import PATIENCE, Sandbox, Service, eventually
from todo_adapters.postgres.url import DatabaseUrl

QUOTA: Final = 2
SETTINGS: Final = {
    **AUTH_SETTINGS,
    # The address of the proxies is then ::ffff:127.0.0.1.
    "HOST": "::" if socket.has_dualstack_ipv6() else "0.0.0.0",  # noqa: S104
    "ROOT_PATH": "/backend",
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
    "RATE_LIMIT_AUTH_FAILURES": f"{QUOTA}/hour",
}

# One server strips the prefix, the other keeps it and adds ports to addresses.
NGINX: Final = Template("""
daemon off;
master_process off;
pid $directory/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path $directory/body;
  proxy_temp_path $directory/proxy;
  fastcgi_temp_path $directory/fastcgi;
  uwsgi_temp_path $directory/uwsgi;
  scgi_temp_path $directory/scgi;
  gzip on;
  gzip_min_length 1;
  gzip_proxied any;
  gzip_types application/json text/css text/javascript;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server {
    listen 127.0.0.1:$stripping;
    proxy_set_header X-Forwarded-For $$remote_addr;
    location /backend/ { proxy_pass http://127.0.0.1:$service/; }
  }
  server {
    listen 127.0.0.1:$keeping;
    proxy_set_header X-Forwarded-For "$$remote_addr:$$remote_port";
    location /backend/ { proxy_pass http://127.0.0.1:$service; }
  }
}
""")
APACHE: Final = Template("""
ServerRoot $directory
PidFile $directory/apache.pid
ErrorLog /dev/stderr
ServerName localhost
DefaultRuntimeDir $directory
User nobody
Group nogroup
LoadModule mpm_event_module $modules/mod_mpm_event.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule proxy_module $modules/mod_proxy.so
LoadModule proxy_http_module $modules/mod_proxy_http.so
LoadModule deflate_module $modules/mod_deflate.so
LoadModule brotli_module $modules/mod_brotli.so
StartServers 1
ServerLimit 1
ThreadsPerChild 4
MaxRequestWorkers 4
Listen 127.0.0.1:$stripping
Listen 127.0.0.1:$keeping
<VirtualHost *:$stripping>
  SetOutputFilter DEFLATE
  ProxyPass /backend/ http://127.0.0.1:$service/
  ProxyPassReverse /backend/ http://127.0.0.1:$service/
</VirtualHost>
<VirtualHost *:$keeping>
  SetOutputFilter BROTLI_COMPRESS
  ProxyPass /backend/ http://127.0.0.1:$service/backend/
  ProxyPassReverse /backend/ http://127.0.0.1:$service/backend/
</VirtualHost>
""")
MODULES: Final = "/usr/lib/apache2/modules"


class Server(NamedTuple):
    """A server of a proxy, the coding that clients request, and its name for ``"1"`` then."""

    program: str
    name: str
    coding: str
    renamed: str


SERVERS: Final = (
    Server("nginx", "stripping", "gzip", 'W/"1"'),
    Server("nginx", "keeping", "gzip", 'W/"1"'),
    Server("apache2", "stripping", "gzip", '"1-gzip"'),
    Server("apache2", "keeping", "br", '"1-br"'),
)
_addresses = (f"127.0.1.{number}" for number in count(1))


@dataclass(frozen=True)
class Proxy:
    """A running server of a proxy."""

    server: Server
    url: str

    def client(self, **headers: str) -> httpx.Client:
        """A client with an address of its own."""
        return httpx.Client(
            transport=httpx.HTTPTransport(local_address=next(_addresses)),
            headers={"Accept-Encoding": self.server.coding, **headers},
            base_url=self.url,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
async def service(
    sandbox: Sandbox, server_url: str, branch: Callable[[str], Awaitable[DatabaseUrl]]
) -> AsyncIterator[Service]:
    await branch("proxied")
    url = urlsplit(server_url)._replace(path="/proxied").geturl()
    with sandbox.serving("serve", DATABASE_URL=url, **SETTINGS) as service:
        yield service


@pytest.fixture(scope="module")
def ports(sandbox: Sandbox, service: Service) -> Iterator[dict[str, dict[str, int]]]:
    """The ports of the servers of both proxies, which listen."""
    commands = (
        (require("nginx", "-v"), NGINX, "-e", "stderr", "-c"),
        (require("apache2", "-v"), APACHE, "-DFOREGROUND", "-f"),
    )
    ports = {}
    with ExitStack() as started:
        for program, template, *arguments in commands:
            name = Path(program).name
            directory = sandbox.root / name
            directory.mkdir()
            ports[name] = {"stripping": free_port(), "keeping": free_port()}
            configuration = directory / "configuration"
            configuration.write_text(
                template.substitute(
                    ports[name], service=service.port, directory=directory, modules=MODULES
                )
            )
            running = started.enter_context(
                sandbox.start(
                    program, *arguments, str(configuration), PORT=str(ports[name]["keeping"])
                )
            )
            assert eventually(running.listens), running.stderr
        yield ports


@pytest.fixture(params=SERVERS, ids=lambda server: f"{server.program}, {server.name} the prefix")
def proxy(request: pytest.FixtureRequest, ports: dict[str, dict[str, int]]) -> Proxy:
    server: Server = request.param
    return Proxy(server, f"http://127.0.0.1:{ports[server.program][server.name]}/backend/")


@pytest.fixture
def ada(proxy: Proxy) -> Iterator[httpx.Client]:
    """A new user behind the proxy."""
    with proxy.client(**as_user(uuid4().hex)) as ada:
        yield ada


def test_an_entity_tag_that_the_proxy_renamed_names_the_version(
    ada: httpx.Client, proxy: Proxy
) -> None:
    created = ada.post("api/tasks", json={"title": "Buy milk"})
    location = urljoin(proxy.url, created.headers["Location"])
    read = ada.get(location)
    tag = read.headers["ETag"]
    assert (read.headers["Content-Encoding"], tag) == (proxy.server.coding, proxy.server.renamed)
    assert ada.get(location, headers={"If-None-Match": tag}).status_code == 304
    statuses = [
        ada.patch(location, json={"title": title}, headers={"If-Match": tag}).status_code
        for title in ("Buy oat milk", "Buy soy milk")
    ]
    assert statuses == [200, 412]
    assert ada.get(location, headers={"If-None-Match": tag}).status_code == 200


def test_an_unchanged_list_is_304(ada: httpx.Client) -> None:
    ada.post("api/tasks", json={"title": "Buy milk"})
    known = {"If-None-Match": ada.get("api/tasks").headers["ETag"]}
    assert ada.get("api/tasks", headers=known).status_code == 304
    ada.post("api/tasks", json={"title": "Buy oat milk"})
    assert ada.get("api/tasks", headers=known).status_code == 200


@pytest.mark.parametrize("path", ["api/tasks", "api/v1/tasks", "api//tasks/"])
def test_references_resolve(ada: httpx.Client, proxy: Proxy, path: str) -> None:
    ada.headers["Accept-Encoding"] = "identity"
    for _ in range(2):
        created = ada.post(path, json={"title": "Buy milk"})
        location = urljoin(proxy.url, created.headers["Location"])
        assert ada.get(location).json() == created.json()
    first = ada.get(path, params={"limit": 1})
    second = ada.get(urljoin(proxy.url, first.links["next"]["url"]))
    assert len(second.json()) == 1
    problem = ada.get(f"{path}/nothing").json()
    assert ada.get(urljoin(proxy.url, problem["instance"])).json()["code"] == "not_found"
    assert ada.get(urljoin(proxy.url, problem["type"])).json()["code"] == "not_found"


def test_the_documentation_loads_its_parts(ada: httpx.Client, proxy: Proxy) -> None:
    ada.headers["Accept-Encoding"] = "identity"
    page = ada.get("docs").text
    parts = {urljoin(proxy.url, part) for part in re.findall(r"[\"'](/[^\"']+)[\"']", page)}
    assert urljoin(proxy.url, "openapi.json") in parts
    assert {ada.get(part).status_code for part in parts} == {200}
    servers = ada.get("openapi.json").json()["servers"]
    assert [urljoin(proxy.url, server["url"]) for server in servers] == [proxy.url.rstrip("/")]


def test_each_client_of_the_proxy_has_its_own_rate_limit(proxy: Proxy) -> None:
    for _ in range(2):
        with proxy.client() as stranger:
            statuses = [stranger.get("api/tasks").status_code for _ in range(QUOTA + 1)]
        assert statuses == [*[401] * QUOTA, 429]
