"""The documentation page works in a browser without internet access."""

import re
from typing import Final

import httpx
import pytest

from todo_api.problems import PROBLEM_TYPES

ADDRESS: Final = re.compile(r"""(?:src|href|url)\s*[=:]\s*["']([^"']*)["']""")


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
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])


async def test_every_address_of_the_page_is_served(stranger: httpx.AsyncClient) -> None:
    found = {
        address: (await stranger.get(address)).headers["Content-Type"].partition(";")[0]
        for address in await addresses(stranger)
    }
    assert found == {
        "/docs/swagger-ui.css": "text/css",
        "/docs/swagger-ui-bundle.js": "text/javascript",
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
