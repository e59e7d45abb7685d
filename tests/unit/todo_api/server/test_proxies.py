"""The client's address and scheme behind reverse proxies."""

from typing import Final

import pytest
from starlette.types import Message, Receive, Scope, Send

from todo_api.server.proxies import behind_proxies

PROXY: Final = "192.0.2.1"
TRUSTED: Final = ("192.0.2.0/28", "2001:db8:f::1")
Fields = list[tuple[bytes, bytes]]


async def seen(peer: str | None, fields: Fields, trusted: tuple[str, ...] = TRUSTED) -> Scope:
    """The scope that an app behind the proxy sees."""
    scopes: list[Scope] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        scopes.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(_message: Message) -> None:
        raise AssertionError

    client = (peer, 50000) if peer is not None else None
    scope = {"type": "http", "scheme": "http", "client": client, "headers": fields}
    await behind_proxies(app, trusted)(scope, receive, send)
    return scopes[0]


def forwarded_for(*values: str) -> Fields:
    return [(b"x-forwarded-for", value.encode("latin-1")) for value in values]


class TestClient:
    @pytest.mark.parametrize(
        ("forwarded", "client"),
        [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7 ", "203.0.113.7"),
            ("203.0.113.7:5001", "203.0.113.7"),
            ("203.0.113.7:", "203.0.113.7"),
            ('"203.0.113.7:5001"', "203.0.113.7"),
            ("[203.0.113.7]:5001", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:0DB8:0::0001", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ('"[2001:db8::1]:443"', "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:cb00:7107]:80", "203.0.113.7"),
        ],
    )
    async def test_is_the_forwarded_address_without_port(self, forwarded: str, client: str) -> None:
        assert (await seen(PROXY, forwarded_for(forwarded)))["client"] == (client, 0)

    @pytest.mark.parametrize(
        ("fields", "client"),
        [
            (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
            (["203.0.113.7, 192.0.2.9:80, [2001:db8:f::1]:80"], "203.0.113.7"),
            (["203.0.113.7,, "], "203.0.113.7"),
            (["192.0.2.8, ::ffff:192.0.2.9"], "192.0.2.8"),
        ],
    )
    async def test_is_the_last_address_that_is_not_a_trusted_proxys(
        self, fields: list[str], client: str
    ) -> None:
        assert (await seen(PROXY, forwarded_for(*fields)))["client"] == (client, 0)

    @pytest.mark.parametrize(
        "forwarded",
        [
            *("unknown", "_hidden", "203.0.113", "203.0.113.7.8", "203.0.113.07", "1.2.3.4/8"),
            *("[2001:db8::1", "[]:80", "::1::", "localhost", "\xff", "%", ":80", "198.51.100.1, -"),
        ],
    )
    async def test_is_the_proxy_if_the_forwarded_text_is_no_address(self, forwarded: str) -> None:
        assert (await seen(PROXY, forwarded_for(forwarded)))["client"] == (PROXY, 0)

    @pytest.mark.parametrize("fields", [[], forwarded_for(""), forwarded_for(" , ,")])
    async def test_is_the_proxy_if_it_forwards_nothing(self, fields: Fields) -> None:
        assert (await seen(PROXY, fields))["client"] == (PROXY, 50000)

    @pytest.mark.parametrize("peer", ["192.0.2.99", "2001:db8:f::2", "unix", "", None])
    async def test_is_the_peer_if_the_peer_is_not_trusted(self, peer: str | None) -> None:
        client = (await seen(peer, forwarded_for("203.0.113.7")))["client"]
        assert client == (None if peer is None else (peer, 50000))

    @pytest.mark.parametrize("peer", ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:192.0.2.1"])
    @pytest.mark.parametrize("trusted", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.0/120"])
    async def test_is_forwarded_by_a_proxy_that_a_dual_stack_socket_shows(
        self, peer: str, trusted: str
    ) -> None:
        scope = await seen(peer, forwarded_for("203.0.113.7"), (trusted,))
        assert scope["client"] == ("203.0.113.7", 0)

    @pytest.mark.parametrize(
        "name", ["forwarded", "x-real-ip", "client-ip", "true-client-ip", "cf-connecting-ip"]
    )
    async def test_is_not_read_from_other_fields(self, name: str) -> None:
        fields = [(name.encode(), b"for=203.0.113.7"), (name.encode(), b"203.0.113.7")]
        assert (await seen(PROXY, fields))["client"] == (PROXY, 50000)


class TestScheme:
    @pytest.mark.parametrize(
        ("values", "scheme"),
        [
            (["https"], "https"),
            (["HTTPS"], "https"),
            (["https, http"], "https"),
            (["https", "http"], "https"),
            (["http"], "http"),
            ([""], "http"),
            (["ftp"], "http"),
            (["\xff"], "http"),
            (["https://"], "http"),
        ],
    )
    async def test_is_the_forwarded_one_if_it_is_of_http(
        self, values: list[str], scheme: str
    ) -> None:
        fields = [(b"x-forwarded-proto", value.encode("latin-1")) for value in values]
        assert (await seen(PROXY, fields))["scheme"] == scheme

    async def test_is_not_read_from_a_peer_that_is_not_trusted(self) -> None:
        assert (await seen("192.0.2.99", [(b"x-forwarded-proto", b"https")]))["scheme"] == "http"
