"""The HTTP client that fetches key sets, with the proxy and the certificates of the environment.

httpx reads every proxy variable, also those that do not apply to the URL, and fails if one of them
is invalid. Here only the variables that apply to the URL have an influence.
"""

import os
import re
import ssl
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

import httpx

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ENTRY: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::([0-9]{1,5}))?")


def new_client(url: httpx.URL) -> httpx.AsyncClient:
    """A client for the server of the URL. Raises ValueError that names the invalid variable."""
    variable = proxy_variable(url)
    return httpx.AsyncClient(
        verify=_tls_context(url),
        proxy=_proxy(variable) if variable else None,
        trust_env=False,
    )


def proxy_variable(url: httpx.URL) -> str | None:
    """The name of the variable with the proxy for the URL; None for a direct connection.

    A server on this machine is never behind a proxy.
    """
    if _is_loopback(url.host) or any(_excludes(entry, url) for entry in _no_proxy()):
        return None
    scheme = f"{url.scheme}_proxy"
    names = (scheme, scheme.upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name, "").strip()), None)


def _proxy(variable: str) -> httpx.Proxy:
    value = os.environ[variable].strip()
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        if proxy.url.scheme in {"http", "https"} and proxy.url.host:
            return proxy
    except (ValueError, httpx.InvalidURL):
        pass
    raise ValueError(
        f"{variable} is invalid for fetching keys: write it like http://proxy.example:3128, or add "
        "the auth server's host to NO_PROXY"
    )


def _tls_context(url: httpx.URL) -> ssl.SSLContext:
    if url.scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # is not used, and trusts no certificate
    directories = os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)
    certificates = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
    names = [name for name in (certificates, "SSLKEYLOGFILE") if os.environ.get(name)]
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
    else:
        if "SSL_CERT_DIR" not in names or any(Path(path).is_dir() for path in directories):
            return context
        reason = "no such directory"
    raise ValueError(
        f"{' or '.join(names)} is invalid for fetching keys ({reason}): correct or unset it"
    )


def _no_proxy() -> list[str]:
    text = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    return text.replace(",", " ").lower().split()


def _excludes(entry: str, url: httpx.URL) -> bool:
    """Whether the entry of NO_PROXY is ``*``, or names the host, a parent domain or a network.

    The entry may have a port.
    """
    name, port = _split_port(entry)
    if port and int(port) != (url.port or _DEFAULT_PORTS[url.scheme]):
        return False
    with suppress(ValueError):
        return ip_address(url.host) in ip_network(name, strict=False)
    domain = name.lstrip("*.")
    return name == "*" or url.host == domain or url.host.endswith(f".{domain}")


def _split_port(entry: str) -> tuple[str, str | None]:
    """Host and port; an IPv6 address may be in brackets and has no port without them."""
    match = _ENTRY.fullmatch(entry)
    return (match[1] or match[2], match[3]) if match else (entry, None)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
