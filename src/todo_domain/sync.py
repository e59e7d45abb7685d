"""The feed of changes: positions in it, its pages, and when a client must start over.

Every write that alters a user's tasks takes the user's next change number. A task, also a deleted
one, carries the number of its last change. A client that follows these numbers has a copy of the
user's tasks.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID

from todo_domain.errors import SyncExpired
from todo_domain.task import Task

FEED_PAGE_MAX: Final = 1000
FEED_PAGE_DEFAULT: Final = 500

_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One history of a user's change numbers.

    ``history`` changes when the database is restored or branched. ``began_at`` is when the user's
    first number was taken, None before.
    """

    history: str
    began_at: datetime | None

    def continues_in(self, later: "Epoch") -> bool:
        """Whether numbers of this epoch are still valid in the later one."""
        return self.history == later.history and self.began_at in {None, later.began_at}


@dataclass(frozen=True, slots=True)
class ChangeState:
    """The state of a user's changes. Equal states mean equal tasks."""

    epoch: Epoch
    last: int


@dataclass(frozen=True, slots=True, order=True)
class FeedPosition:
    """A position in the feed: the change number and the id of an entry."""

    change: int = -1
    id: UUID = _LAST_ID


@dataclass(frozen=True, slots=True)
class FeedEntry:
    """The last change of one task. ``task`` is None if the change deleted the task."""

    change: int
    id: UUID
    task: Task | None

    @property
    def position(self) -> FeedPosition:
        return FeedPosition(self.change, self.id)


@dataclass(frozen=True, slots=True)
class Change:
    """A committed write that took the owner's change number ``number``.

    ``number`` is None for a write that failed, but may have been committed. ``task_id`` is None if
    the write may have altered several tasks. ``task`` is the task as it is now, None if the write
    deleted it.
    """

    owner: str
    number: int | None
    task_id: UUID | None = None
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Entries in the order of their positions, and the state in which they were read."""

    entries: tuple[FeedEntry, ...]
    has_more: bool
    state: ChangeState


@dataclass(frozen=True, slots=True)
class SyncToken:
    """How far a client has read the feed, and ``issued_on``, the day from which its age counts.

    The client started with the live tasks when ``floor`` was the last change number, so it needs no
    earlier deletions.
    """

    epoch: Epoch
    position: FeedPosition
    floor: int
    issued_on: date

    def require_valid(self, state: ChangeState, now: datetime, retention: timedelta) -> None:
        """Raise SyncExpired if the feed cannot continue from this token.

        The feed cannot continue after a restore of the database, which may have undone changes,
        or when deletions that the client has not read may have been purged.
        """
        is_ahead = self.position.change > state.last
        is_behind = self.position.change < state.last
        is_old = now.date() - self.issued_on >= retention
        if not self.epoch.continues_in(state.epoch) or is_ahead or (is_behind and is_old):
            raise SyncExpired


def next_token(token: SyncToken | None, page: FeedPage, now: datetime) -> SyncToken:
    """The token of a client that has had ``token`` and has read ``page``."""
    position = (
        page.entries[-1].position if page.has_more else FeedPosition(page.state.last, _LAST_ID)
    )
    floor = page.state.last if token is None else token.floor
    # A later page keeps the day of the first: deletions since that day may not have been read yet.
    issued_on = now.date() if token is None or not page.has_more else token.issued_on
    return SyncToken(page.state.epoch, position, floor, issued_on)
