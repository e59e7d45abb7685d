"""In-memory fakes of the ports. They pass the contract suites of ``contracts.py``."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Unpack, cast
from uuid import UUID

from todo_api.rate_limits import QuotaStatus
from todo_domain.batch import Batch, BatchResult, CreateTask, StoredTask, decide, with_successors
from todo_domain.errors import (
    AuthKeysUnavailable,
    IdempotencyKeyReused,
    StaleVersion,
    TaskIdTaken,
    TaskNotDeleted,
    TaskNotFound,
    TokenErrorCode,
    TokenRejected,
    TooManyAffected,
)
from todo_domain.ownership import Principal
from todo_domain.ports import KEY_LIFETIME, RETENTION, ChangeListener
from todo_domain.queries import TaskCounts, TaskFilter, TaskPage, TaskQuery
from todo_domain.sync import Change, ChangeState, Epoch, FeedEntry, FeedPage, FeedPosition
from todo_domain.task import Task, TaskChanges
from todo_domain.user_data import ImportResult, StoredPage, UserRecord, tasks_to_store

TOKEN_LIFETIME: Final = timedelta(minutes=15)


@dataclass(slots=True)
class _Stored:
    """A task, when it was deleted if it is, and the number of its last change."""

    task: Task
    change: int
    deleted_at: datetime | None = None


class UserTasks:
    """The tasks of one user, and the counter of their changes."""

    def __init__(self) -> None:
        self.stored: dict[UUID, _Stored] = {}
        self.last_change = 0
        self.began_at: datetime | None = None
        self.record: UserRecord | None = None

    def see(self, now: datetime) -> None:
        """Record that the user has created a task."""
        first = self.record.first_seen_at if self.record else now
        self.record = UserRecord(first, max(first, now))

    def put(self, task: Task, *, deleted_at: datetime | None = None, change: int = 0) -> None:
        """Store the task with the next change number, or with one that was taken before."""
        self.stored[task.id] = _Stored(task, change or self.take_number(), deleted_at)

    def take_number(self) -> int:
        self.began_at = self.began_at or datetime.now(UTC)
        self.last_change += 1
        return self.last_change

    def live(self) -> list[Task]:
        return [each.task for each in self.stored.values() if each.deleted_at is None]

    def get(self, task_id: UUID) -> Task:
        stored = self.stored.get(task_id)
        if stored is None or stored.deleted_at is not None:
            raise TaskNotFound
        return stored.task

    def is_at(self, task_id: UUID, version: int) -> bool:
        stored = self.stored.get(task_id)
        return stored is not None and stored.deleted_at is None and stored.task.version == version

    def add_successor(self, successor: Task, number: int) -> Task:
        """Store the successor unless a live task has its id; return the stored one."""
        present = self.stored.get(successor.id)
        if present is not None and present.deleted_at is None:
            return present.task
        self.put(successor, change=number)
        return successor

    def remove_successor(self, reopened: Task, number: int) -> bool:
        """Delete the successor if the completion has made it and it was not changed since."""
        successor = self.stored.get(reopened.next_id or reopened.id)
        if (
            successor is None
            or successor.deleted_at is not None
            or not successor.task.is_made_by(self.get(reopened.id))
        ):
            return False
        self.put(successor.task, deleted_at=reopened.updated_at, change=number)
        return True


@dataclass(frozen=True, slots=True)
class _FirstResult:
    """The result of the first call with an idempotency key, and the content of the call."""

    at: datetime
    content: object
    result: object


class InMemoryTaskRepository:
    """A fake of todo_domain.ports.TaskRepository.

    Every call first yields to the event loop, as a database call does, so that concurrent calls
    interleave.
    """

    def __init__(self, on_change: ChangeListener = lambda _: None) -> None:
        self.history = "the fake's"
        self._on_change = on_change
        self._users: defaultdict[str, UserTasks] = defaultdict(UserTasks)
        self._first_results: dict[tuple[str, str], _FirstResult] = {}

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        await _yield_to_others()
        first = self._first_result(task.owner, key, task.created_at)
        if first is not None:
            if first.content != task.content:
                raise IdempotencyKeyReused
            return cast("Task", first.result)
        user = self._of(task.owner)
        stored = user.stored.get(task.id)
        if stored and not _is_expired(stored, task.created_at):
            raise TaskIdTaken
        self._use_key(task.owner, key, task.created_at, task.content, task)
        user.see(task.created_at)
        self._put(task)
        return task

    async def get(self, owner: str, task_id: UUID) -> Task:
        await _yield_to_others()
        return self._of(owner).get(task_id)

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        await _yield_to_others()
        user = self._of(owner)
        state = self._state(user)
        if query.unless_change == state.last:
            return TaskPage((), has_more=False, total=None, state=state)
        matching = _ordered(filter(query.filter.matches, user.live()), query)
        following = [task for task in matching if _follows(task, query)]
        has_more = len(following) > query.limit
        is_complete = query.after is None and not has_more
        total = len(matching) if query.with_total or is_complete else None
        return TaskPage(tuple(following[: query.limit]), has_more, total, state)

    async def save(self, task: Task, *, successor: Task | None = None) -> Task | None:
        await _yield_to_others()
        user = self._of(task.owner)
        if not user.is_at(task.id, task.version - 1):
            raise StaleVersion
        number = user.take_number()
        alters_several = successor is not None or (not task.completed and task.next_id is not None)
        if successor is not None:
            successor = user.add_successor(successor, number)
        elif not task.completed and user.remove_successor(task, number):
            task = replace(task, next_id=None)
        user.put(task, change=number)
        if alters_several:
            self._on_change(Change(task.owner, number))
        else:
            self._on_change(Change(task.owner, number, task.id, task))
        return successor

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        await _yield_to_others()
        user = self._of(owner)
        task = user.get(task_id)
        if task.needs_save(changes):
            return task
        changed = task.changed(now, **changes)
        if changed is not task:
            self._put(changed)
        return changed

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        await _yield_to_others()
        user = self._of(owner)
        if version is not None and not user.is_at(task_id, version):
            raise StaleVersion
        task = user.get(task_id)
        user.put(task, deleted_at=now)
        self._on_change(Change(owner, user.last_change, task_id))
        return task

    async def change_matching(
        self,
        owner: str,
        wanted: TaskFilter,
        *,
        now: datetime,
        max_affected: int | None = None,
        **changes: Unpack[TaskChanges],
    ) -> tuple[UUID, ...]:
        await _yield_to_others()
        matching = filter(wanted.matches, self._of(owner).live())
        changed = [(task, task.changed(now, **changes)) for task in matching]
        altered = [StoredTask(new) for old, new in changed if new is not old]
        return self._write(owner, altered, now, max_affected)

    async def delete_matching(
        self, owner: str, wanted: TaskFilter, *, now: datetime, max_affected: int | None = None
    ) -> tuple[UUID, ...]:
        await _yield_to_others()
        matching = filter(wanted.matches, self._of(owner).live())
        return self._write(owner, [StoredTask(task, now) for task in matching], now, max_affected)

    async def apply(
        self, owner: str, batch: Batch, *, now: datetime, key: str | None = None
    ) -> BatchResult:
        await _yield_to_others()
        first = self._first_result(owner, key, now)
        if first is not None:
            if first.content != _content_of(batch):
                raise IdempotencyKeyReused
            return cast("BatchResult", first.result)
        stored = self._of(owner).stored
        decided = [
            decide(operation, _value(stored.get(operation.id)), now, RETENTION)
            for operation in batch.operations
        ]
        result = BatchResult.of(batch, [outcome for outcome, _ in decided])
        if result.is_applied:
            self._write(owner, [new for _, new in decided if new], now)
            if any(outcome.is_new for outcome, _ in decided):
                self._of(owner).see(now)
            self._use_key(owner, key, now, _content_of(batch), result)
        return result

    def _write(
        self,
        owner: str,
        rows: Sequence[StoredTask],
        now: datetime,
        max_affected: int | None = None,
    ) -> tuple[UUID, ...]:
        if max_affected is not None and len(rows) > max_affected:
            raise TooManyAffected(len(rows))
        user = self._of(owner)
        number = user.take_number() if rows else 0
        stored = {
            task_id: StoredTask(each.task, each.deleted_at) for task_id, each in user.stored.items()
        }
        for task, deleted_at in with_successors(stored, rows, now):
            user.put(task, deleted_at=deleted_at, change=number)
        if rows:
            self._on_change(Change(owner, number))
        return tuple(task.id for task, _ in rows)

    def _first_result(self, owner: str, key: str | None, now: datetime) -> _FirstResult | None:
        first = self._first_results.get((owner, key)) if key else None
        return first if first and first.at >= now - KEY_LIFETIME else None

    def _use_key(
        self, owner: str, key: str | None, now: datetime, content: object, result: object
    ) -> None:
        if key:
            self._first_results[owner, key] = _FirstResult(now, content, result)

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        await _yield_to_others()
        user = self._of(owner)
        stored = user.stored.get(task_id)
        if stored is None or _is_expired(stored, now):
            raise TaskNotFound
        if stored.deleted_at is None:
            raise TaskNotDeleted
        self._put(stored.task)
        return stored.task

    async def changes(
        self, owner: str, *, after: FeedPosition, floor: int | None, limit: int
    ) -> FeedPage:
        await _yield_to_others()
        user = self._of(owner)
        entries = [
            FeedEntry(each.change, task_id, each.task if each.deleted_at is None else None)
            for task_id, each in user.stored.items()
            if each.deleted_at is None or (floor is not None and each.change > floor)
        ]
        following = sorted(
            (entry for entry in entries if entry.position > after),
            key=lambda entry: entry.position,
        )
        return FeedPage(tuple(following[:limit]), len(following) > limit, self._state(user))

    async def count(self, owner: str) -> TaskCounts:
        await _yield_to_others()
        completed = [task.completed for task in self._of(owner).live()]
        return TaskCounts(pending=completed.count(False), completed=completed.count(True))

    async def find_user(self, owner: str) -> UserRecord | None:
        await _yield_to_others()
        return self._of(owner).record

    async def read_stored(
        self, owner: str, *, after: UUID | None, limit: int, now: datetime
    ) -> StoredPage:
        await _yield_to_others()
        following = [
            StoredTask(each.task, each.deleted_at)
            for task_id, each in sorted(self._of(owner).stored.items())
            if (after is None or task_id > after) and not _is_expired(each, now)
        ]
        return StoredPage(tuple(following[:limit]), len(following) > limit)

    async def import_tasks(
        self, owner: str, imported: Sequence[StoredTask], *, now: datetime
    ) -> ImportResult:
        await _yield_to_others()
        user = self._of(owner)
        stored = {
            task_id: StoredTask(each.task, each.deleted_at) for task_id, each in user.stored.items()
        }
        new = tasks_to_store(imported, stored, now, RETENTION)
        self._write(owner, new, now)
        if new:
            user.see(now)
        return ImportResult(len(new), len(imported) - len(new))

    async def erase(self, owner: str) -> int:
        await _yield_to_others()
        for first_result in [key for key in self._first_results if key[0] == owner]:
            del self._first_results[first_result]
        erased = len(self._users.pop(owner, UserTasks()).stored)
        self._on_change(Change(owner, None))
        return erased

    def _put(self, task: Task) -> None:
        user = self._of(task.owner)
        user.put(task)
        self._on_change(Change(task.owner, user.last_change, task.id, task))

    def _of(self, owner: str) -> UserTasks:
        return self._users[owner]

    def _state(self, user: UserTasks) -> ChangeState:
        return ChangeState(Epoch(self.history, user.began_at), user.last_change)


def _content_of(batch: Batch) -> object:
    """What two batches with the same idempotency key must have in common."""
    return batch.is_atomic, [
        (operation.id, operation.task.content) if isinstance(operation, CreateTask) else operation
        for operation in batch.operations
    ]


def _value(stored: _Stored | None) -> StoredTask | None:
    return StoredTask(stored.task, stored.deleted_at) if stored else None


def _is_expired(stored: _Stored, now: datetime) -> bool:
    return stored.deleted_at is not None and stored.deleted_at <= now - RETENTION


class FakeTokenVerifier:
    """A fake of todo_domain.ports.TokenVerifier: the id of a known user is that user's token.

    With ``has_keys=False`` it cannot verify any token.
    """

    def __init__(self, *user_ids: str, has_keys: bool = True) -> None:
        self._user_ids = frozenset(user_ids)
        self._has_keys = has_keys

    async def verify(self, token: str, now: datetime) -> Principal:
        if not self._has_keys:
            raise AuthKeysUnavailable
        if token not in self._user_ids:
            raise TokenRejected(TokenErrorCode.INVALID, "unknown to the fake")
        return Principal(token, expires_at=now + TOKEN_LIFETIME)


class UnlimitedRateLimiter:
    """A fake of todo_api.rate_limits.RateLimiter that has no quotas."""

    async def hit(self, _policy: str, _key: str, *, count: int = 1) -> Sequence[QuotaStatus]:
        del count
        return ()


@dataclass(frozen=True, slots=True)
class FakeQuotaStatus:
    """A fake of todo_api.rate_limits.QuotaStatus: its window does not end."""

    quota: int
    window: int
    hits: int

    @property
    def remaining(self) -> int:
        return max(0, self.quota - self.hits)

    @property
    def reset(self) -> int:
        return self.window

    @property
    def is_exceeded(self) -> bool:
        return self.hits > self.quota


class InMemoryRateLimiter:
    """A fake of todo_api.rate_limits.RateLimiter whose windows do not end.

    A policy is a mapping from the seconds of a window to its quota.
    """

    def __init__(self, policies: Mapping[str, Mapping[int, int]]) -> None:
        self._policies = policies
        self._hits: Counter[tuple[str, str]] = Counter()

    async def hit(self, policy: str, key: str, *, count: int = 1) -> Sequence[QuotaStatus]:
        await _yield_to_others()
        self._hits[policy, key] += count
        hits = self._hits[policy, key]
        quotas = self._policies.get(policy, {})
        return [FakeQuotaStatus(quota, window, hits) for window, quota in quotas.items()]


def _ordered(tasks: Iterable[Task], query: TaskQuery) -> list[Task]:
    sort = query.sort
    return sorted(tasks, key=lambda task: sort.key(sort.position(task)), reverse=sort.descending)


def _follows(task: Task, query: TaskQuery) -> bool:
    if query.after is None:
        return True
    key, start = query.sort.key(query.sort.position(task)), query.sort.key(query.after)
    return key < start if query.sort.descending else key > start


async def _yield_to_others() -> None:
    await asyncio.sleep(0)
