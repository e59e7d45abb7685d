"""What a client would rather have (RFC 7240): ``Prefer: count=exact, return=minimal``."""

from typing import Annotated

from fastapi import Header

Prefer = Annotated[
    str | None,
    Header(
        description="`count=exact`, `return=minimal` or `handling=strict`, separated by commas."
    ),
]


def prefers(prefer: str | None, preference: str) -> bool:
    """Whether the preference, such as ``return=minimal``, is among the preferred ones."""
    wanted = (prefer or "").lower().replace(" ", "").replace('"', "").split(",")
    return preference in {part.partition(";")[0] for part in wanted}
