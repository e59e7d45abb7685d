"""Classifies the host of a database: on this machine, in a private network or public.

Nothing is looked up: the result must not depend on a name server. An unknown name is public.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

# Names that public DNS does not serve.
_PRIVATE_NAME: Final = re.compile(
    r"""(?!\d+$|0x[0-9a-f]+$)[^.]+  # one label, but no IPv4 address that is written as one number
    | .+\.(?:corp|home|internal|intranet|lan|private)  # RFC 6762, appendix G
    | .+\.(?:home\.arpa|local|localdomain|localhost|test)  # RFC 8375, RFC 6762, RFC 6761
    | .+\.(?:consul|default|flycast|podman|svc)  # Consul, Kubernetes, Fly.io, Podman
    | .+\.(?!xn--)[a-z]+[\d_-][\w-]*  # SERVICE.NAMESPACE: no public domain ends in such a label
    """,
    re.VERBOSE | re.ASCII,
)


def parse_ip(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address, None for a name. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_local(host: str) -> bool:
    """Whether connections stay inside this machine: loopback, or the directory of a socket."""
    address = parse_ip(host)
    return host.startswith("/") or host == "localhost" or bool(address and address.is_loopback)


def is_public(host: str) -> bool:
    """Whether connections may cross the internet."""
    address = parse_ip(host)
    if is_local(host):
        return False
    return address.is_global if address else not _PRIVATE_NAME.fullmatch(host)
