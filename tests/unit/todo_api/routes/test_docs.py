"""The documentation page works in a browser without internet access."""

import re
from typing import Final

import httpx
import pytest

from support.http_client import client, served
from todo_api.bearer_tokens import DevelopmentTokens
from todo_api.problems import PROBLEM_TYPES

ADDRESS: Final = re.compile(r"""(?:src|href|data-schema)\s*[=:]\s*["']([^"']*)["']""")


async def addresses(stranger: httpx.AsyncClient) -> list[str]:
    """Every address that a browser fetches for the page."""
    page = await stranger.get("/docs")
    assert page.status_code == 200
    return [address for address in ADDRESS.findall(page.text) if not address.startswith("data:")]


async def test_the_page_needs_no_token(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


async def test_the_page_refers_only_to_this_service(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/docs")
    assert "//" not in re.sub(r"^\s*(//|<!--).*$", "", page.text, flags=re.MULTILINE)


async def test_the_page_forbids_other_scripts_and_frames(
    stranger: httpx.AsyncClient,
) -> None:
    page = await stranger.get("/docs")
    policy = dict(
        part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == "'self'"


async def test_every_address_of_the_page_is_served(stranger: httpx.AsyncClient) -> None:
    found = {
        address: (await stranger.get(address)).headers["Content-Type"].partition(";")[0]
        for address in await addresses(stranger)
    }
    assert found == {
        "/docs/swagger-ui.css": "text/css",
        "/docs/swagger-ui-bundle.js": "text/javascript",
        "/docs/docs.css": "text/css",
        "/docs/docs.js": "text/javascript",
        "/openapi.json": "application/json",
    }


async def test_assets_may_be_cached_for_a_day(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/docs/swagger-ui.css")
    assert response.headers["Cache-Control"] == "public, max-age=86400"


@pytest.mark.parametrize("part", ["bytes=0-1", "bytes=9999999-", "bytes=x", "lines=1-2"])
async def test_an_asset_is_sent_whole(stranger: httpx.AsyncClient, part: str) -> None:
    whole = await stranger.get("/docs/swagger-ui.css")
    response = await stranger.get("/docs/swagger-ui.css", headers={"Range": part})
    assert (response.status_code, response.content) == (200, whole.content)


@pytest.mark.parametrize(
    "asset",
    ["favicon.png", "%2e%2e", "..%2fdocs.py", "%2fetc%2fpasswd", "swagger-ui.css%00", "a/b"],
)
async def test_another_asset_is_404(stranger: httpx.AsyncClient, asset: str) -> None:
    response = await stranger.get(f"/docs/{asset}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def docs_page(
    tokens: DevelopmentTokens, host: str = "127.0.0.1:8000", **fields: str
) -> httpx.Response:
    """The page of ``todo-api dev`` as a client with these header fields gets it."""
    async with served(development_tokens=tokens) as app, client(app) as browser:
        return await browser.get("/docs", headers={"Host": host, **fields})


class TestDevelopmentToken:
    TOKENS: Final = DevelopmentTokens("token-of-{}".format)
    NO_TOKEN: Final = '<meta name="development-token" content="">'

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000"])
    async def test_is_in_the_page_for_a_browser_of_this_machine(self, host: str) -> None:
        page = await docs_page(self.TOKENS, host)
        assert '<meta name="development-token" content="token-of-alice">' in page.text
        assert page.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("host", ["todo.example", "127.0.0.1.nip.io", "localhost.evil", ""])
    async def test_is_not_in_the_page_for_another_host_name(self, host: str) -> None:
        assert self.NO_TOKEN in (await docs_page(self.TOKENS, host)).text

    @pytest.mark.parametrize("field", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via"])
    async def test_is_not_in_the_page_behind_a_proxy(self, field: str) -> None:
        page = await docs_page(self.TOKENS, **{field: "1.1 tunnel"})
        assert self.NO_TOKEN in page.text

    async def test_is_not_in_the_page_if_other_machines_can_reach_the_service(self) -> None:
        assert self.NO_TOKEN in (await docs_page(DevelopmentTokens())).text

    async def test_is_not_in_the_page_without_development_tokens(
        self, stranger: httpx.AsyncClient
    ) -> None:
        page = await stranger.get("/docs", headers={"Host": "localhost"})
        assert self.NO_TOKEN in page.text


@pytest.mark.parametrize("path", ["/docs", "/docs/docs.js", "/openapi.json"])
async def test_docs_can_be_switched_off(path: str) -> None:
    async with served(shows_docs=False) as app, client(app) as stranger:
        response = await stranger.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_problems_are_explained_without_docs() -> None:
    async with served(shows_docs=False) as app, client(app) as stranger:
        assert (await stranger.get("/problems/not_found")).status_code == 200


@pytest.mark.parametrize("code", sorted(PROBLEM_TYPES))
async def test_the_type_of_every_problem_is_a_path_with_its_meaning(
    stranger: httpx.AsyncClient, code: str
) -> None:
    response = await stranger.get(f"/problems/{code}")
    kind = PROBLEM_TYPES[code]
    assert response.status_code == 200
    assert response.json() == {
        "code": code,
        "status": kind.status,
        "title": kind.title,
        "detail": kind.detail,
    }


async def test_an_unknown_problem_is_404(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/problems/none")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
