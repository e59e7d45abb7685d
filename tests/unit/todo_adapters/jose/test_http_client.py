"""Which variables of the environment have an influence on fetching keys."""

from typing import Final

import httpx
import pytest

from todo_adapters.jose.http_client import new_client, proxy_variable

HTTPS: Final = httpx.URL("https://auth.example.com/api/auth/jwks")
HTTP: Final = httpx.URL("http://auth:3000/api/auth/jwks")
VARIABLES: Final = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"),
)


@pytest.fixture(autouse=True)
def _unset_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (HTTPS, "HTTPS_PROXY"),
        (HTTPS, "https_proxy"),
        (HTTPS, "ALL_PROXY"),
        (HTTP, "http_proxy"),
        (HTTP, "all_proxy"),
    ],
)
@pytest.mark.parametrize(
    "value", ["http://proxy.example:3128", "proxy.example:3128", " http://ada:hunter2@[::1]:8080 "]
)
async def test_a_proxy_for_the_url_is_used(
    monkeypatch: pytest.MonkeyPatch, url: httpx.URL, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert proxy_variable(url) == name
    await new_client(url).aclose()


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [
        (HTTPS, "HTTP_PROXY", "nonsense://"),
        (HTTP, "HTTPS_PROXY", "nonsense://"),
        (HTTPS, "FTP_PROXY", "nonsense://"),
        (HTTPS, "HTTPS_PROXY", " "),
        (HTTPS, "NO_PROXY", "localhost,[::1],fe80::/10,http://[,:,99999"),
        (HTTP, "SSL_CERT_FILE", "/nonexistent"),
        (HTTP, "SSLKEYLOGFILE", "/nonexistent/keys"),
        (httpx.URL("http://localhost:3000"), "ALL_PROXY", "socks5://proxy.example:1080"),
        (httpx.URL("http://127.0.0.1:3000"), "ALL_PROXY", "socks5://proxy.example:1080"),
        (httpx.URL("http://[::1]:3000"), "HTTP_PROXY", "nonsense://"),
    ],
)
async def test_a_variable_that_does_not_apply_has_no_influence(
    monkeypatch: pytest.MonkeyPatch, url: httpx.URL, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert proxy_variable(url) is None
    await new_client(url).aclose()


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_direct"),
    [
        ("https://auth.example.com", "auth.example.com", True),
        ("https://auth.example.com", "localhost, .example.com", True),
        ("https://auth.example.com", "*.EXAMPLE.com", True),
        ("https://auth.example.com", "example.com:443", True),
        ("https://auth.example.com", "example.com:8443", False),
        ("https://auth.example.com", "ample.com", False),
        ("https://auth.example.com", "*", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.4", False),
        ("https://[fd00::1]:8443", "[fd00::1]", True),
        ("https://[fd00::1]:8443", "fd00::/8", True),
        ("https://[fd00::1]:8443", "[fd00::1]:443", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str, *, is_direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_variable(httpx.URL(url)) is None) == is_direct


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://ada:hunter2@proxy.example:1080"),
        ("HTTPS_PROXY", "ftp://proxy.example"),
        ("https_proxy", "http://ada:hunter2@proxy.example:port"),
        ("HTTPS_PROXY", "http://"),
        ("SSL_CERT_FILE", "/nonexistent"),
        ("SSL_CERT_FILE", "/etc/passwd"),
        ("SSL_CERT_FILE", "/"),
        ("SSL_CERT_DIR", "/nonexistent"),
        ("SSLKEYLOGFILE", "/nonexistent/keys"),
    ],
)
def test_an_invalid_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is invalid for fetching keys") as error:
        new_client(HTTPS)
    assert "hunter2" not in str(error.value)
