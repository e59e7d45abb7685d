"""The Idempotency-Key header of the IETF draft: a client's name for one creation."""

import re
from typing import Annotated, Final

from fastapi import Header

from todo_api.problems import RequestRefused

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 visible ASCII characters that are new for each task, such as a UUID; "
        "remembered for 24 hours.",
    ),
]

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


def checked_key(key: str | None) -> str | None:
    """The key, bare or in the quotes that the draft asks for. Raises RequestRefused."""
    if key is None:
        return None
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not _KEY.fullmatch(bare):
        raise RequestRefused(
            "bad_request", "Idempotency-Key: must be 1 to 255 visible ASCII characters"
        )
    return bare
