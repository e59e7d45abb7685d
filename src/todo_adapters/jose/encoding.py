"""Strict decoders for base64url and JSON, the two notations of tokens and key sets.

Python's decoders accept padding, stray characters, repeated members, NaN and UTF-16. Two texts can
then carry the same token, and two parsers can read different values from the same text.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final, NoReturn

DEPTH_MAX: Final = 32

JsonObject = dict[str, Any]


def decode_base64url(text: str) -> bytes:
    """Decode base64url (RFC 7515, section 2). Raises ValueError unless the text is canonical."""
    octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(octets) != text:
        raise ValueError("not canonical base64url")
    return octets


def encode_base64url(octets: bytes) -> str:
    """Encode as base64url without padding."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def parse_json_object(document: bytes) -> JsonObject:
    """Parse a JSON object (RFC 8259) in UTF-8 with at most DEPTH_MAX levels of nesting.

    Raises ValueError for anything else, and for a repeated member, NaN and Infinity.
    """
    try:
        value = _DECODER.decode(document.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict) or _is_deeper(value, DEPTH_MAX):
        raise ValueError("not a JSON object of bounded depth")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in value)


def _unique_members(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _reject_nan(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_members, parse_constant=_reject_nan)
