"""The client's address behind trusted reverse proxies."""

from collections.abc import Sequence
from ipaddress import ip_address

from granian.utils.proxies import wrap_asgi_with_proxy_headers
from starlette.types import ASGIApp, Receive, Scope, Send


def behind_proxies(app: ASGIApp, trusted: Sequence[str]) -> ASGIApp:
    """Wrap the app so that it uses ``X-Forwarded-For`` and ``-Proto`` of trusted proxies.

    This is the outermost middleware: all others see the client's address instead of the proxy's.
    If the forwarded text is not an IP address, the proxy's address remains.
    """

    async def with_valid_client(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_address(scope["client"]):
            scope["client"] = scope["peer"]
        await app(scope, receive, send)

    forwarded = wrap_asgi_with_proxy_headers(with_valid_client, list(trusted))

    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["peer"] = scope.get("client")
        await forwarded(scope, receive, send)

    return with_peer


def _is_address(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and bool(ip_address(client[0]))
    except ValueError:
        return False
