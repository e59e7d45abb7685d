"""The client's address, where proxies stand between: what those say that are believed."""

from collections.abc import Sequence
from ipaddress import ip_address

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from starlette.types import ASGIApp, Receive, Scope, Send


def behind_proxies(app: ASGIApp, trusted: Sequence[str]) -> ASGIApp:
    """The app, for which ``X-Forwarded-For`` and ``-Proto`` of the trusted proxies count.

    Outermost, so that every layer sees the client's address and not the proxy's. What a proxy
    forwards that is no address at all does not count.
    """

    async def with_address(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_address(scope["client"]):
            scope["client"] = scope["peer"]
        await app(scope, receive, send)

    forwarded = wrap_asgi_with_proxy_headers(with_address, list(trusted))

    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["peer"] = scope.get("client")
        await forwarded(scope, receive, send)

    return with_peer


def _is_address(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and bool(ip_address(client[0]))
    except ValueError:
        return False
