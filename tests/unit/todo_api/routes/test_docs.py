"""The documentation works in a browser that reaches this service and nothing else."""

import re
from typing import Final

import httpx
import pytest

from todo_api.problems import PROBLEM_TYPES

ADDRESS: Final = re.compile(r"""(?:src|href|url)\s*[=:]\s*["']([^"']*)["']""")


async def addresses(stranger: httpx.AsyncClient) -> list[str]:
    """Every address that the page makes a browser fetch."""
    page = await stranger.get("/docs")
    assert page.status_code == 200
    return [address for address in ADDRESS.findall(page.text) if not address.startswith("data:")]


async def test_the_page_is_html_that_needs_no_token(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


async def test_the_page_refers_to_this_service_alone(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/docs")
    assert "//" not in re.sub(r"^\s*(//|<!--).*$", "", page.text, flags=re.MULTILINE)


async def test_the_page_can_run_no_script_but_its_own_and_be_in_no_frame(
    stranger: httpx.AsyncClient,
) -> None:
    page = await stranger.get("/docs")
    policy = dict(
        part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'self' 'sha256-[A-Za-z0-9+/]{43}='", policy["script-src"])


async def test_everything_that_the_page_needs_is_served(stranger: httpx.AsyncClient) -> None:
    found = {
        address: (await stranger.get(address)).headers["Content-Type"].partition(";")[0]
        for address in await addresses(stranger)
    }
    assert found == {
        "/docs/swagger-ui.css": "text/css",
        "/docs/swagger-ui-bundle.js": "text/javascript",
        "/openapi.json": "application/json",
    }


async def test_assets_may_be_cached(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/docs/swagger-ui.css")
    assert answer.headers["Cache-Control"] == "public, max-age=86400"


@pytest.mark.parametrize(
    "asset",
    ["favicon.png", "%2e%2e", "..%2fdocs.py", "%2fetc%2fpasswd", "swagger-ui.css%00", "a/b"],
)
async def test_there_is_no_other_asset(stranger: httpx.AsyncClient, asset: str) -> None:
    answer = await stranger.get(f"/docs/{asset}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("code", sorted(PROBLEM_TYPES))
async def test_the_type_of_every_problem_leads_to_what_it_means(
    stranger: httpx.AsyncClient, code: str
) -> None:
    answer = await stranger.get(f"/problems/{code}")
    kind = PROBLEM_TYPES[code]
    assert answer.status_code == 200
    assert answer.json() == {
        "code": code,
        "status": kind.status,
        "title": kind.title,
        "detail": kind.detail,
    }


async def test_a_problem_that_does_not_exist_is_not_found(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/problems/none")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
