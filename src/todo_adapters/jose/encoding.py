"""The two notations that tokens and key sets are written in, read without tolerance.

Python's decoders forgive what lets two different texts mean the same token, or lets one text mean
two things to two readers: stray characters, padding, repeated members, NaN, UTF-16.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final, NoReturn

DEPTH_MAX: Final = 32

JsonObject = dict[str, Any]


def decode_base64url(text: str) -> bytes:
    """The octets behind an unpadded base64url text (RFC 7515, section 2).

    Raises ValueError unless the text is the one way to write these octets.
    """
    try:
        octets = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise ValueError("not base64url") from None
    if encode_base64url(octets) != text:
        raise ValueError("not canonical base64url")
    return octets


def encode_base64url(octets: bytes) -> str:
    """The unpadded base64url text of the octets."""
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def parse_json_object(document: bytes) -> JsonObject:
    """The JSON object (RFC 8259) that a UTF-8 document holds, nested at most DEPTH_MAX deep.

    Raises ValueError for anything else, a member given twice and a number that is none included.
    """
    try:
        value = _DECODER.decode(document.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not (isinstance(value, dict) and _is_within(value, DEPTH_MAX)):
        raise ValueError("not a JSON object of bounded depth")
    return value


def _is_within(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_within(member, depth - 1) for member in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_within(item, depth - 1) for item in value)
    return True


def _unique_members(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant
)
