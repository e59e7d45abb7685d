"""In-memory fakes of the ports. They pass the contract suites of ``contracts.py``."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Unpack
from uuid import UUID

from todo_api.rate_limits import QuotaStatus
from todo_domain.errors import (
    AuthKeysUnavailable,
    IdempotencyKeyReused,
    StaleVersion,
    TaskNotDeleted,
    TaskNotFound,
    TokenErrorCode,
    TokenRejected,
)
from todo_domain.ownership import Principal
from todo_domain.ports import KEY_LIFETIME, RETENTION
from todo_domain.queries import TaskCounts, TaskPage, TaskQuery
from todo_domain.task import Task, TaskChanges

TOKEN_LIFETIME: Final = timedelta(minutes=15)


class InMemoryTaskRepository:
    """A fake of todo_domain.ports.TaskRepository.

    Every call first yields to the event loop, as a database call does, so that concurrent calls
    interleave.
    """

    def __init__(self) -> None:
        self._tasks: dict[UUID, Task] = {}
        self._deleted: dict[UUID, tuple[datetime, Task]] = {}
        self._first_added: dict[tuple[str, str], Task] = {}

    async def add(self, task: Task, *, key: str | None = None) -> Task:
        await _yield_to_others()
        first = self._first_added.get((task.owner, key)) if key else None
        if first is not None and first.created_at >= task.created_at - KEY_LIFETIME:
            if first.content != task.content:
                raise IdempotencyKeyReused
            return first
        if key:
            self._first_added[task.owner, key] = task
        self._tasks[task.id] = task
        return task

    async def get(self, owner: str, task_id: UUID) -> Task:
        await _yield_to_others()
        return self._own(owner, task_id)

    async def find(self, owner: str, query: TaskQuery) -> TaskPage:
        await _yield_to_others()
        own = (task for task in self._tasks.values() if task.owner == owner)
        matching = _ordered(filter(query.filter.matches, own), query)
        following = [task for task in matching if _follows(task, query)]
        has_more = len(following) > query.limit
        is_complete = query.after is None and not has_more
        total = len(matching) if query.with_total or is_complete else None
        return TaskPage(tuple(following[: query.limit]), has_more, total)

    async def save(self, task: Task) -> None:
        await _yield_to_others()
        if not self._is_at(task.owner, task.id, task.version - 1):
            raise StaleVersion
        self._tasks[task.id] = task

    async def change(
        self, owner: str, task_id: UUID, *, now: datetime, **changes: Unpack[TaskChanges]
    ) -> Task:
        await _yield_to_others()
        task = self._own(owner, task_id).changed(now, **changes)
        self._tasks[task_id] = task
        return task

    async def delete(
        self, owner: str, task_id: UUID, *, now: datetime, version: int | None = None
    ) -> Task:
        await _yield_to_others()
        if version is not None and not self._is_at(owner, task_id, version):
            raise StaleVersion
        return self._delete(self._own(owner, task_id), now)

    async def delete_completed(self, owner: str, *, now: datetime) -> int:
        await _yield_to_others()
        completed = [t for t in self._tasks.values() if t.owner == owner and t.completed]
        for task in completed:
            self._delete(task, now)
        return len(completed)

    async def restore(self, owner: str, task_id: UUID, *, now: datetime) -> Task:
        await _yield_to_others()
        deleted_at, task = self._deleted.get(task_id, (None, None))
        if task is None or task.owner != owner:
            self._own(owner, task_id)
            raise TaskNotDeleted
        if deleted_at is None or deleted_at <= now - RETENTION:
            raise TaskNotFound
        del self._deleted[task_id]
        self._tasks[task_id] = task
        return task

    async def count(self, owner: str) -> TaskCounts:
        await _yield_to_others()
        completed = [task.completed for task in self._tasks.values() if task.owner == owner]
        return TaskCounts(pending=completed.count(False), completed=completed.count(True))

    def _delete(self, task: Task, now: datetime) -> Task:
        self._deleted[task.id] = (now, self._tasks.pop(task.id))
        return task

    def _is_at(self, owner: str, task_id: UUID, version: int) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and (task.owner, task.version) == (owner, version)

    def _own(self, owner: str, task_id: UUID) -> Task:
        task = self._tasks.get(task_id)
        if task is None or task.owner != owner:
            raise TaskNotFound
        return task


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

    async def hit(self, _policy: str, _key: str) -> Sequence[QuotaStatus]:
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

    async def hit(self, policy: str, key: str) -> Sequence[QuotaStatus]:
        await _yield_to_others()
        self._hits[policy, key] += 1
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
