"""Runs a real Better Auth: the npm package in Node's HTTP server, with users who sign in."""

import asyncio
import json
import os
import ssl
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import httpx

from support.jose_tokens import Json, unb64
from support.ports import free_port
from support.programs import npm_install, require

SECRET: Final = "the-secret-of-this-better-auth-and-its-frontend"
ADA: Final = "ada@example.com"
PASSWORD: Final = "correct horse battery staple"
PATIENCE: Final = 60  # seconds

PACKAGE: Final = Path(__file__).parents[1] / "integration" / "end_to_end" / "better_auth"
# The tests use no TLS, and httpx takes long to load the CA certificates.
_NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def install() -> None:
    """Install the locked npm packages if necessary. Skips the test if Node does not run."""
    require("node")
    npm_install(PACKAGE)


@asynccontextmanager
async def better_auth(*, port: int | None = None, **options: Json) -> AsyncIterator["BetterAuth"]:
    """An auth server with an empty database. ``server.mjs`` describes the options."""
    port = port or free_port()
    node = await asyncio.create_subprocess_exec(
        require("node"),
        PACKAGE / "server.mjs",
        json.dumps({"port": port, **options}),
        env=os.environ | {"BETTER_AUTH_SECRET": SECRET},
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        assert node.stdout is not None
        assert await asyncio.wait_for(node.stdout.readline(), PATIENCE) == b"ready\n"
        async with AsyncExitStack() as opened, _client(port) as controls:
            yield BetterAuth(port, options.get("name"), controls, opened)
    finally:
        with suppress(ProcessLookupError):
            node.terminate()
        await node.wait()


@dataclass(frozen=True)
class Session:
    """A signed-in user, with a browser that has the cookies.

    ``token`` is the opaque session token, and ``signed_token`` is that token with its signature.
    """

    browser: httpx.AsyncClient
    user: dict[str, Json]
    token: str
    signed_token: str

    async def jwt(self) -> str:
        """The JWT that a frontend fetches for its backend."""
        return await _jwt(self.browser)

    async def jwt_in_header(self) -> str:
        """The JWT in a header of the response to get-session."""
        response = await self.browser.get("/api/auth/get-session")
        return str(response.headers["set-auth-jwt"])

    async def delete_account(self) -> httpx.Response:
        """The response to the request of the user to delete the account."""
        return await self.browser.post(
            "/api/auth/delete-user",
            json={"password": PASSWORD},
            headers={"Origin": str(self.browser.base_url).rstrip("/")},
        )

    @property
    def cached_in_cookie(self) -> str:
        """The session data in the cache cookie."""
        return unquote(self.browser.cookies["better-auth.session_data"])


class BetterAuth:
    """An auth server that listens at ``origin``, and whose tokens have the issuer ``name``."""

    def __init__(
        self, port: int, name: str | None, controls: httpx.AsyncClient, opened: AsyncExitStack
    ) -> None:
        self.port = port
        self.origin = f"http://127.0.0.1:{port}"
        self.name = name or self.origin
        self.jwks_url = f"{self.origin}/api/auth/jwks"
        self._controls = controls
        self._opened = opened

    async def sign_up(self, email: str = ADA) -> Session:
        """Sign up a new user in a new browser."""
        account = {"name": "Ada Lovelace", "email": email, "password": PASSWORD}
        return await self._session("sign-up", account)

    async def sign_in(self, email: str = ADA) -> Session:
        """Sign in an existing user in a new browser."""
        return await self._session("sign-in", {"email": email, "password": PASSWORD})

    async def jwt_for(self, session_token: str) -> str:
        """The JWT for a client that sends the session token instead of cookies."""
        bearer = {"Authorization": f"Bearer {session_token}"}
        return await _jwt(await self._browser(), bearer)

    async def verification_mail_token(self, session: Session) -> str:
        """The token in the mail that verifies the user's address."""
        response = await session.browser.post(
            "/api/auth/send-verification-email",
            json={"email": session.user["email"]},
            headers={"Origin": self.name},
        )
        response.raise_for_status()
        return str(await self._control("mail"))

    async def install(self, **options: Json) -> None:
        """Replace the database with an empty one, and the options."""
        await self._control("install", **options)

    async def configure(self, **options: Json) -> None:
        """Replace the options, and serve the key set normally again."""
        await self._control("configure", **options)

    async def age_keys(self, seconds: int) -> None:
        """Make the keys older."""
        await self._control("age", seconds=seconds)

    async def fail(self, how: str) -> None:
        """Make requests for the key set fail; ``server.mjs`` lists the ways."""
        await self._control("fail", how=how)

    async def fetches(self) -> int:
        """The number of requests for the key set since the last ``install``."""
        return int(await self._control("fetches"))

    async def sign(self, lifetime: str = "30m", **claims: Json) -> str:
        """A token that the frontend signs with BETTER_AUTH_SECRET and the npm package jose."""
        return str(await self._control("sign", claims=claims, lifetime=lifetime))

    async def _session(self, action: str, account: dict[str, str]) -> Session:
        browser = await self._browser()
        response = await browser.post(f"/api/auth/{action}/email", json=account)
        document = response.raise_for_status().json()
        signed_token = unquote(response.headers["set-auth-token"])
        return Session(browser, document["user"], document["token"], signed_token)

    async def _control(self, command: str, **arguments: Json) -> Json:
        response = await self._controls.post(f"/control/{command}", json=arguments)
        return response.raise_for_status().json()

    async def _browser(self) -> httpx.AsyncClient:
        return await self._opened.enter_async_context(_client(self.port))


def header(jwt: str) -> dict[str, Json]:
    """The header of the token, not verified."""
    return _members(jwt.split(".")[-3])


def claims(jwt: str) -> dict[str, Json]:
    """The claims of the token, not verified."""
    return _members(jwt.split(".")[-2])


def _members(segment: str) -> dict[str, Json]:
    members: dict[str, Json] = json.loads(unb64(segment))
    return members


def _client(port: int) -> httpx.AsyncClient:
    origin = f"http://127.0.0.1:{port}"
    return httpx.AsyncClient(
        base_url=origin, timeout=PATIENCE, trust_env=False, verify=_NO_CERTIFICATES
    )


async def _jwt(browser: httpx.AsyncClient, headers: dict[str, str] | None = None) -> str:
    response = await browser.get("/api/auth/token", headers=headers)
    return str(response.raise_for_status().json()["token"])
