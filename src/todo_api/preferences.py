"""What a client would rather have (RFC 7240): ``Prefer: count=exact, return=minimal``."""

from typing import Annotated

from fastapi import Header

Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description="`count=exact` for `X-Total-Count`, `return=minimal` for an answer without a "
        "body (204 instead of 200), `handling=strict` for a 422 on unknown members and "
        "parameters; several are separated by commas.",
    ),
]


def prefers(prefer: str | None, preference: str) -> bool:
    """Whether the preference, such as ``return=minimal``, is among the preferred ones."""
    if prefer is None:
        return False
    wanted = prefer.lower().replace(" ", "").replace('"', "").split(",")
    return preference in {part.partition(";")[0] for part in wanted}
