"""``GET /`` leads people and programs to the parts of the service."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Final

import httpx
import pytest

from support.http_client import client, served
from todo_api.bearer_tokens import DevelopmentTokens

HTML: Final = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
LINKS: Final = {
    "tasks": "/api/tasks",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/health/ready",
}


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
async def test_a_program_gets_the_links_as_json(stranger: httpx.AsyncClient, accept: str) -> None:
    response = await stranger.get("/", headers={"Accept": accept})
    assert response.json() == {"name": "todo-api", **LINKS}


async def test_a_browser_gets_the_links_as_a_page(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/", headers=HTML)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.findall('<a href="([^"]*)">', page.text) == list(LINKS.values())


async def test_every_public_link_is_served(stranger: httpx.AsyncClient) -> None:
    _, *public = LINKS.values()
    assert [(await stranger.get(path)).status_code for path in public] == [200] * 3


async def test_the_response_is_not_cached_because_it_depends_on_accept(
    stranger: httpx.AsyncClient,
) -> None:
    assert (await stranger.get("/")).headers["Cache-Control"] == "no-store"


async def test_the_page_allows_its_own_style_and_no_script(stranger: httpx.AsyncClient) -> None:
    page = await stranger.get("/", headers=HTML)
    style = page.text.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy


async def test_links_have_the_prefix_of_the_proxy() -> None:
    async with served(root_path="/backend") as app, client(app) as stranger:
        links = (await stranger.get("/backend/")).json()
    assert links == {"name": "todo-api", **{k: f"/backend{v}" for k, v in LINKS.items()}}


async def test_there_are_no_links_to_docs_that_are_switched_off() -> None:
    async with served(shows_docs=False) as app, client(app) as stranger:
        links = (await stranger.get("/")).json()
    assert links == {"name": "todo-api", "tasks": "/api/tasks", "health": "/health/ready"}


async def test_in_development_the_page_names_the_command_that_prints_a_token() -> None:
    tokens = DevelopmentTokens()
    async with served(development_tokens=tokens) as app, client(app) as stranger:
        page = await stranger.get("/", headers=HTML)
    assert "todo-api token alice" in page.text
    assert "/api/auth/token" not in page.text


async def test_in_production_the_page_names_the_url_of_the_auth_server(
    stranger: httpx.AsyncClient,
) -> None:
    page = await stranger.get("/", headers=HTML)
    assert "/api/auth/token" in page.text
    assert "todo-api token" not in page.text


@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer undefined"}])
async def test_in_development_a_401_names_the_command_that_prints_a_token(
    authorization: dict[str, str],
) -> None:
    tokens = DevelopmentTokens()
    async with served(development_tokens=tokens) as app, client(app) as stranger:
        response = await stranger.get("/api/tasks", headers=authorization)
    assert response.status_code == 401
    assert response.json()["detail"].endswith("the token that `todo-api token alice` prints")


async def test_in_production_a_401_does_not_name_the_command(stranger: httpx.AsyncClient) -> None:
    assert "todo-api token" not in (await stranger.get("/api/tasks")).text


async def test_a_404_of_an_unknown_path_names_the_paths_of_tasks_and_docs() -> None:
    async with served(root_path="/backend") as app, client(app) as stranger:
        problem = (await stranger.get("/backend/lists")).json()
    assert problem["detail"] == (
        "there is nothing at this path: the tasks are at /backend/api/tasks, "
        "the documentation is at /backend/docs"
    )


async def test_a_404_does_not_name_docs_that_are_switched_off() -> None:
    async with served(shows_docs=False) as app, client(app) as stranger:
        problem = (await stranger.get("/lists")).json()
    assert problem["detail"] == "there is nothing at this path: the tasks are at /api/tasks"
