"""``todo-api doctor``: tries what the settings point at, and says how to mend what fails."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from todo_api import main
from todo_api.settings import ConfigurationError, Settings
from todo_domain.errors import TodoError


@dataclass(frozen=True, slots=True)
class Finding:
    """One part that was looked at, and what was seen or has to be done."""

    part: str
    is_fine: bool
    seen: str

    def __str__(self) -> str:
        return f"{'ok ' if self.is_fine else 'BAD'}  {self.part}: {self.seen}"


async def examine(settings: Settings) -> list[Finding]:
    """Look at every part, in the order in which it matters."""
    return [await _look(part, look, settings) for part, look in _PARTS.items()]


async def _look(
    part: str, look: Callable[[Settings], Awaitable[str]], settings: Settings
) -> Finding:
    try:
        return Finding(part, is_fine=True, seen=await look(settings))
    except (ConfigurationError, TodoError) as failure:
        return Finding(part, is_fine=False, seen=str(failure).removeprefix(f"{part}: "))


async def _database(settings: Settings) -> str:
    label = main.database_address(settings).label
    revision, wanted = await main.schema_revisions(settings)
    if revision != wanted:
        raise ConfigurationError(
            f"{label} has schema version {revision or 'none'}, but {wanted} is needed: "
            "run `todo-api migrate`"
        )
    return f"{label} answers and has schema version {revision}"


async def _tokens(settings: Settings) -> str:
    return await main.check_tokens(settings)


async def _cors(settings: Settings) -> str:
    if not settings.cors_origins:
        return "CORS_ORIGINS is not set, so browsers on other origins are refused"
    return f"browsers may call from {', '.join(settings.cors_origins)}"


_PARTS: Final[dict[str, Callable[[Settings], Awaitable[str]]]] = {
    "database": _database,
    "tokens": _tokens,
    "CORS": _cors,
}
