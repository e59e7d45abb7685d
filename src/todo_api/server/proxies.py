"""The client's address behind trusted reverse proxies."""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_Address = IPv4Address | IPv6Address
_WITH_PORT: Final = re.compile(r"\[(.*)\](?::\w*)?|([0-9.]+):\w*")
_IPV4_MAPPED: Final = 96  # bits before the IPv4 address
_SCHEMES: Final = frozenset({"http", "https"})


def behind_proxies(app: ASGIApp, trusted: Sequence[str]) -> ASGIApp:
    """Wrap the app so that it uses ``X-Forwarded-For`` and ``-Proto`` of trusted proxies.

    This is the outermost middleware: all others see the client's address instead of the proxy's.
    ``Forwarded``, ``X-Real-IP`` and ``X-Forwarded-Host``, ``-Port`` and ``-Prefix`` have no effect:
    many proxies pass on what a client sends in them.
    """
    networks = [_network(text) for text in trusted]

    def is_trusted(address: _Address) -> bool:
        return any(address in network for network in networks)

    async def forwarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client"):
            peer = _address(scope["client"][0])
            if peer is not None and is_trusted(peer):
                _apply(scope, peer, is_trusted)
        await app(scope, receive, send)

    return forwarded


def _apply(scope: Scope, peer: _Address, is_trusted: Callable[[_Address], bool]) -> None:
    hops = _list(scope, b"x-forwarded-for")
    if hops:
        scope["client"] = (str(_client(peer, hops, is_trusted)), 0)
    schemes = _list(scope, b"x-forwarded-proto")
    if schemes and schemes[0].lower() in _SCHEMES:
        scope["scheme"] = schemes[0].lower()


def _client(
    peer: _Address, hops: Sequence[str], is_trusted: Callable[[_Address], bool]
) -> _Address:
    """The last address that is not a trusted proxy's.

    If a proxy forwards text that is no address, the proxy's own address remains.
    """
    client = peer
    for hop in reversed(hops):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not is_trusted(address):
            break
    return client


def _list(scope: Scope, wanted: bytes) -> list[str]:
    """The items of all fields with this name."""
    fields = [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
    return [item.strip() for item in ",".join(fields).split(",") if item.strip()]


def _address(text: str) -> _Address | None:
    """The address, without quotes, brackets, port and zone; None for other text."""
    text = text.strip('"')
    match = _WITH_PORT.fullmatch(text)
    if match:
        text = match[1] or match[2] or ""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= _IPV4_MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _IPV4_MAPPED))
    return network
