"""A real browser before the real service: CORS as pages of other origins meet it, and /docs.

Chromium is driven by its own chromedriver with the commands of W3C WebDriver. To it no host exists
but this machine.
"""

import json
import sys
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from support.ports import free_port
from support.programs import require
from support.service import PATIENCE, Sandbox, Service, eventually, new_sandbox

PAGES: Final = Path(__file__).with_name("browser")
QUOTA: Final = 100
NOBODY_S: Final = "/api/tasks/0198f3c2-7d1e-7c3a-9b1f-5a0f6f1d2c3b"
OPTIONS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--window-size=1280,3000",
)


class Browser:
    """One tab. What is to be clicked or read is waited for."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def open(self, url: str) -> None:
        self._do("POST", "url", url=url)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401 - any JSON
        """What a script in the page returns; of a promise, what it becomes."""
        return self._do("POST", "execute/sync", script=script, args=arguments)

    def click(self, selector: str) -> None:
        self._do("POST", f"{self._element(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._do("POST", f"{self._element(selector)}/value", text=text)

    def read(self, selector: str) -> str:
        return str(self._do("GET", f"{self._element(selector)}/text"))

    def screenshot(self) -> bytes:
        """As PNG."""
        return b64decode(self._do("GET", "screenshot"))

    @contextmanager
    def phone(self) -> Iterator[None]:
        """The screen of a phone, for the pages that are opened in the block."""
        screen = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        yield
        self._devtools("Emulation.clearDeviceMetricsOverride", {})

    def _devtools(self, command: str, parameters: Mapping[str, object]) -> None:
        self._do("POST", "goog/cdp/execute", cmd=command, params=parameters)

    def console(self) -> list[str]:
        """The console's lines since they were last asked for."""
        return [entry["message"] for entry in self._log("browser")]

    def received(self) -> list[int]:
        """The statuses that came over the network since the traffic was last asked for."""
        return [told["statusCode"] for told in self.traffic("Network.responseReceivedExtraInfo")]

    def traffic(self, event: str) -> list[dict[str, Any]]:
        """What the DevTools tell of an event, such as Network.requestWillBeSent, since last."""
        told = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [message["params"] for message in told if message["method"] == event]

    def _log(self, kind: str) -> list[dict[str, str]]:
        return list(self._do("POST", "se/log", type=kind))

    def _element(self, selector: str) -> str:
        found = self._do("POST", "element", using="css selector", value=selector)
        return f"element/{next(iter(found.values()))}"

    def _do(self, method: str, command: str, **parameters: object) -> Any:  # noqa: ANN401
        body = parameters if method == "POST" else None
        answer = self._session.request(method, command, json=body)
        assert answer.is_success, answer.text
        return answer.json()["value"]


@dataclass(frozen=True)
class Answer:
    """What a page's script gets to see of an answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Page:
    """Somebody's page of a frontend, which calls the service by ``fetch``."""

    browser: Browser
    service: Service
    token: str
    address: str = field(kw_only=True)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """The answer, or None if the browser hides it from the page."""
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        request: dict[str, object] = {"method": method, "headers": sent}
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
            request["body"] = json.dumps(body)
        seen = self.browser.run("return ask(...arguments)", f"{self.service.url}{path}", request)
        return None if seen is None else Answer(**seen)

    def see(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, which the browser has to show."""
        answer = self.ask(method, path, body, headers)
        assert answer is not None, self.browser.console()
        return answer

    def opened(self) -> "Page":
        self.browser.open(self.address)
        return self


@contextmanager
def listening(sandbox: Sandbox, *command: str) -> Iterator[Service]:
    """A program that listens at the port which the command has as ``{port}``."""
    port = str(free_port())
    with sandbox.start(*(part.format(port=port) for part in command), PORT=port) as service:
        assert eventually(service.listens), service.stderr
        yield service


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    require("chromium"), require("chromedriver")
    with new_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def browser(sandbox: Sandbox) -> Iterator[Browser]:
    chromium = {
        "binary": require("chromium"),
        "args": [*OPTIONS, f"--user-data-dir={sandbox.home}/chromium"],
    }
    wait = int(PATIENCE * 500)  # ms: the driver gives up before its client does, and says why
    capabilities = {
        "goog:chromeOptions": chromium,
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        "timeouts": {"implicit": wait, "script": wait},
    }
    wanted = {"capabilities": {"alwaysMatch": capabilities}}
    driver_command = (require("chromedriver"), "--port={port}")
    with listening(sandbox, *driver_command) as driver, driver.client() as session:
        made = session.post("/session", json=wanted).raise_for_status().json()
        session.base_url = address = f"{driver.url}/session/{made['value']['sessionId']}"
        yield Browser(session)
        session.delete(address)


@pytest.fixture(scope="module")
def frontend(sandbox: Sandbox) -> Iterator[Service]:
    """Another server on this machine, with the page."""
    server = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1")
    with listening(sandbox, *server, "--directory", str(PAGES), "{port}") as frontend:
        yield frontend


@pytest.fixture(scope="module")
def service(sandbox: Sandbox, frontend: Service) -> Iterator[Service]:
    """The service, which allows the frontend by the name localhost and by no other."""
    allowed = f"http://localhost:{frontend.port}"
    with sandbox.serving("dev", CORS_ORIGINS=allowed, RATE_LIMIT=f"{QUOTA}/hour") as service:
        yield service


@pytest.fixture(scope="module")
def token(sandbox: Sandbox) -> str:
    return development_token(sandbox, "ada")


@pytest.fixture
def page(browser: Browser, service: Service, frontend: Service, token: str) -> Page:
    """A page of the allowed origin."""
    address = f"http://localhost:{frontend.port}/page.html"
    return Page(browser, service, token, address=address).opened()


@pytest.fixture
def foreign_page(page: Page, frontend: Service) -> Page:
    """The same page, by an address that has another origin."""
    return replace(page, address=f"{frontend.url}/page.html").opened()


def development_token(sandbox: Sandbox, user: str) -> str:
    return sandbox.todo_api("token", user).stdout.strip()


def created(page: Page, title: str = "Buy milk") -> str:
    """The path of a new task."""
    return page.see("POST", "/api/tasks", {"title": title}).headers["location"]


class TestAPageOfAnAllowedOrigin:
    def test_walks_through_a_task_s_life(self, page: Page) -> None:
        new = page.see("POST", "/api/tasks", {"title": "Buy milk"}, {"Idempotency-Key": "milk"})
        path = new.headers["location"]
        assert (new.status, path) == (201, f"/api/tasks/{new.body['id']}")
        assert new.headers["etag"] == '"1"'

        listed = page.see("GET", "/api/tasks")
        assert listed.headers["x-total-count"] == str(len(listed.body))
        assert new.body in listed.body

        assert page.see("GET", path).body == new.body
        assert page.see("GET", path, None, {"If-None-Match": '"1"'}).status == 304

        put = page.see("PUT", path, {"title": "Buy oat milk"}, {"If-Match": '"1"'})
        assert (put.status, put.body["title"]) == (200, "Buy oat milk")
        assert put.headers["etag"] == '"2"'

        merge_patch = {"Content-Type": "application/merge-patch+json"}
        patched = page.see("PATCH", path, {"priority": "high"}, merge_patch)
        assert (patched.status, patched.body["priority"]) == (200, "high")

        assert page.see("PATCH", f"{path}/complete", {"completed": True}).body["completed"] is True
        assert page.see("PATCH", f"{path}/toggle").body["completed"] is False

        assert page.see("DELETE", path).body["title"] == "Buy oat milk"
        assert page.see("GET", path).status == 404
        assert page.see("POST", f"{path}/restore").body["title"] == "Buy oat milk"

        page.see("PATCH", f"{path}/complete")
        cleared = page.see("DELETE", "/api/tasks?status=completed")
        assert (cleared.status, cleared.body) == (200, {"deleted": 1, "ids": [new.body["id"]]})

        me = page.see("GET", "/api/me")
        assert (me.status, me.body["user_id"]) == (200, "ada")

    def test_follows_the_links_of_a_list(self, page: Page) -> None:
        oldest = created(page)
        newest = created(page)
        first = page.see("GET", "/api/tasks?limit=1", None, {"Prefer": "count=exact"})
        link, relation = first.headers["link"].split("; ")
        second = page.see("GET", link.strip("<>"))
        assert relation == 'rel="next"'
        assert int(first.headers["x-total-count"]) >= 2
        assert [task["id"] for task in first.body + second.body] == [
            path.rpartition("/")[2] for path in (newest, oldest)
        ]

    def test_gets_a_task_that_has_not_changed_from_the_browser_s_own_cache(
        self, page: Page
    ) -> None:
        path = created(page)
        page.see("GET", path)
        page.browser.traffic("")
        again = page.see("GET", path)
        assert (again.status, again.body["version"]) == (200, 1)
        assert eventually(lambda: 304 in page.browser.received())

    def test_reads_the_request_s_id_and_what_is_left_of_its_quota(self, page: Page) -> None:
        headers = page.see("GET", "/api/me", None, {"X-Request-ID": "from-the-page"}).headers
        assert headers["x-request-id"] == "from-the-page"
        assert headers["ratelimit-policy"] == f'"user";q={QUOTA};w=3600'
        assert headers["ratelimit"].startswith('"user";r=')

    @pytest.mark.parametrize(
        ("status", "code", "asked"),
        [
            (401, "token_malformed", ("GET", "/api/me", None, {"Authorization": "Bearer x"})),
            (404, "not_found", ("GET", NOBODY_S)),
            (409, "not_deleted", ("POST", "{task}/restore")),
            (412, "stale_version", ("PATCH", "{task}", {"title": "x"}, {"If-Match": '"9"'})),
            (422, "validation_failed", ("POST", "/api/tasks", {"title": ""})),
        ],
    )
    def test_sees_why_it_is_refused(
        self, page: Page, status: int, code: str, asked: tuple[Any, ...]
    ) -> None:
        method, path, *rest = asked
        seen = page.see(method, path.format(task=created(page)), *rest)
        assert (seen.status, seen.headers["content-type"]) == (status, "application/problem+json")
        assert (seen.body["status"], seen.body["code"]) == (status, code)
        assert seen.body["request_id"] == seen.headers["x-request-id"]

    def test_sees_when_it_may_ask_again(
        self, sandbox: Sandbox, service: Service, page: Page
    ) -> None:
        token = development_token(sandbox, "hasty")
        with service.client(token) as hasty:
            for _ in range(QUOTA):
                hasty.get("/api/me")
        refused = replace(page, token=token).see("GET", "/api/me")
        assert (refused.status, refused.body["code"]) == (429, "rate_limited")
        assert 0 < int(refused.headers["retry-after"]) <= 3600


class TestAPageOfAnotherOrigin:
    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/api/me", None),
            ("GET", "/api/tasks", None),
            ("POST", "/api/tasks", {"title": "Mine"}),
            ("PUT", "{task}", {"title": "Mine"}),
            ("PATCH", "{task}", {"title": "Mine"}),
            ("PATCH", "{task}/complete", None),
            ("DELETE", "{task}", None),
            ("DELETE", "/api/tasks?status=completed", None),
        ],
    )
    def test_sees_nothing_and_changes_nothing(
        self,
        service: Service,
        token: str,
        foreign_page: Page,
        method: str,
        path: str,
        body: object,
    ) -> None:
        with service.client(token) as ada:
            task = ada.post("/api/tasks", json={"title": "Ada's", "completed": True})
            before = ada.get("/api/tasks").json()
            answer = foreign_page.ask(method, path.format(task=task.headers["location"]), body)
            assert ada.get("/api/tasks").json() == before
        assert answer is None
        console = foreign_page.browser.console
        assert eventually(lambda: "blocked by CORS policy" in "".join(console()))

    def test_sees_nothing_where_no_preflight_asks_before(self, foreign_page: Page) -> None:
        seen = foreign_page.browser.run(
            "return ask(...arguments)", f"{foreign_page.service.url}/health/live", {}
        )
        assert seen is None


class TestDocs:
    @pytest.fixture
    def docs(self, browser: Browser, service: Service) -> Iterator[Browser]:
        """The browser, when it shows the documentation and has done nothing else."""
        browser.open("about:blank")
        browser.console(), browser.traffic("")
        browser.open(f"{service.url}/docs")
        browser.read("#operations-tasks-listTasks")
        yield browser
        browser.run("localStorage.clear()")

    @pytest.fixture
    def reader(self, sandbox: Sandbox, service: Service, docs: Browser) -> Iterator[httpx.Client]:
        """Somebody who has authorised in the documentation, as another client too."""
        token = development_token(sandbox, "reader")
        docs.click(".btn.authorize")
        docs.click(".auth-container .auth:not([type=submit], .btn-done)")  # log alice out
        docs.type(".auth-container input", token)
        docs.click(".auth-container [type=submit]")
        docs.click(".auth-container .btn-done")
        with service.client(token) as client:
            yield client

    def test_load_from_the_service_alone_and_without_complaint(
        self, service: Service, docs: Browser
    ) -> None:
        asked = [sent["request"]["url"] for sent in docs.traffic("Network.requestWillBeSent")]
        assert {urlsplit(url).netloc for url in asked} == {f"127.0.0.1:{service.port}"}
        assert docs.console() == []

    def test_create_a_task_as_they_suggest_it(self, reader: httpx.Client, docs: Browser) -> None:
        status, task = self.execute(docs, "createTask")
        assert status == "201", task
        assert task in reader.get("/api/tasks").json()

    def test_create_a_task_without_a_pasted_token(
        self, sandbox: Sandbox, service: Service, docs: Browser
    ) -> None:
        docs.read(".btn.authorize.locked")
        status, task = self.execute(docs, "createTask")
        assert status == "201", task
        with service.client(development_token(sandbox, "alice")) as alice:
            assert task in alice.get("/api/tasks").json()

    @pytest.mark.parametrize("path", ["/", "/docs"])
    def test_fit_the_width_of_a_phone(self, service: Service, browser: Browser, path: str) -> None:
        with browser.phone():
            browser.open(f"{service.url}{path}")
            browser.read("h1, #operations-tasks-listTasks")
            width = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width == [375, 375]

    def test_list_the_tasks(self, reader: httpx.Client, docs: Browser, tmp_path: Path) -> None:
        reader.post("/api/tasks", json={"title": "Read the docs"})
        assert self.execute(docs, "listTasks") == ("200", reader.get("/api/tasks").json())
        (tmp_path / "docs.png").write_bytes(docs.screenshot())
        assert docs.console() == []

    def execute(self, docs: Browser, operation: str) -> tuple[str, Any]:
        """Execute an operation as it is filled in; return the status and the body that is shown."""
        block = f"#operations-tasks-{operation}"
        docs.click(f"{block} .opblock-summary-control")
        docs.click(f"{block} .execute")
        answer = f"{block} .live-responses-table .response"
        status = docs.read(f"{answer} .response-col_status")
        return status, json.loads(docs.read(f"{answer} .highlight-code pre"))
