"""The part of the contract of TaskRepository about writes of several tasks in one call."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from random import Random
from typing import Final, cast
from uuid import UUID, uuid4

import pytest

from support.tasks import COMPLETED, LATER, NOW, a_repeating_task, a_task, mixed_tasks
from todo_domain.batch import (
    OPERATIONS_MAX,
    Batch,
    BatchResult,
    ChangeTask,
    CreateTask,
    DeleteTask,
    Operation,
    Outcome,
    Refusal,
    RestoreTask,
    StoredTask,
    decide,
    with_successors,
)
from todo_domain.errors import IdempotencyKeyReused, InvalidTask, TooManyAffected
from todo_domain.ports import KEY_LIFETIME, RETENTION, TaskRepository
from todo_domain.queries import TaskFilter, TaskQuery
from todo_domain.repeat import Repeat, Unit
from todo_domain.sync import Change, FeedPosition
from todo_domain.task import Priority, Task, TaskChanges

INSTANT: Final = timedelta(microseconds=1)
CHANGES: Final[list[TaskChanges]] = [
    {},
    {"title": "Buy oat milk"},
    {"title": "ÉCOLE", "description": None},
    {"completed": True},
    {"completed": False},
    {"priority": Priority.HIGH, "tags": ["home", 'a \\ "b"']},
    {"due_date": date(2026, 1, 20), "tags": []},
    {"due_date": datetime.max.replace(tzinfo=NOW.tzinfo), "description": "é\n%_"},
    {"due_date": datetime.min.replace(tzinfo=NOW.tzinfo), "priority": None},
    {"due_date": date(2026, 1, 20), "repeat": Repeat(Unit.DAY), "position": "a"},
    {"due_date": date(2026, 1, 31), "repeat": Repeat(Unit.MONTH), "completed": False},
    {"repeat": None},
    {"due_date": None},
]
FILTERS: Final = [
    TaskFilter(),
    COMPLETED,
    TaskFilter(completed=False, priority=Priority.LOW),
    TaskFilter(tags=("home",), text="milk"),
    TaskFilter(due_before=LATER + timedelta(days=9)),
    TaskFilter(ids=frozenset(task.id for task in mixed_tasks()[:5])),
    TaskFilter(ids=frozenset()),
]


Write = Callable[[TaskRepository, list[Task], TaskChanges], Awaitable[object]]


async def change_in_a_batch(tasks: TaskRepository, some: list[Task], changes: TaskChanges) -> None:
    batch = Batch(tuple(ChangeTask(task.id, changes) for task in some))
    assert (await tasks.apply("ada", batch, now=LATER)).is_applied


async def change_by_a_filter(tasks: TaskRepository, some: list[Task], changes: TaskChanges) -> None:
    wanted = TaskFilter(ids=frozenset(task.id for task in some))
    await tasks.change_matching("ada", wanted, now=LATER, **changes)


# How several tasks can be changed in one call.
WRITES: Final[dict[str, Write]] = {"a batch": change_in_a_batch, "a filter": change_by_a_filter}


class BatchContract:
    """A todo_domain.ports.TaskRepository.

    Fixture: ``tasks``, an empty repository that reports changes to ``reported.append``.
    """

    @pytest.fixture
    def reported(self) -> list[Change]:
        return []

    # --- Batches ---

    @pytest.mark.parametrize("seed", range(6))
    async def test_a_batch_has_the_result_of_decide(self, tasks: TaskRepository, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - repeatable on purpose
        model: dict[UUID, StoredTask] = {}
        now = NOW
        for _ in range(15):
            now += random.choice((timedelta(seconds=1), RETENTION / 3, RETENTION))
            batch = random_batch(random, model, now)
            assert await tasks.apply("ada", batch, now=now) == apply_to(model, batch, now)
            assert await live(tasks) == {
                task.id: task for task, deleted_at in model.values() if deleted_at is None
            }

    async def test_all_writes_of_a_batch_have_one_change_number(
        self, tasks: TaskRepository
    ) -> None:
        first, second = a_task(), a_task()
        await tasks.add(first)
        await tasks.apply(
            "ada", Batch((CreateTask(second), ChangeTask(first.id, {"title": "x"}))), now=NOW
        )
        page = await tasks.changes("ada", after=FeedPosition(), floor=0, limit=10)
        assert [(entry.change, entry.id) for entry in page.entries] == sorted(
            (2, task.id) for task in (first, second)
        )

    async def test_a_rejected_batch_writes_nothing(self, tasks: TaskRepository) -> None:
        stored = a_task()
        await tasks.add(stored)
        batch = Batch(
            (
                CreateTask(a_task()),
                ChangeTask(stored.id, {"title": "x"}, if_version=2),
                DeleteTask(uuid4()),
                RestoreTask(uuid4()),
            )
        )
        result = await tasks.apply("ada", batch, now=LATER, key="key")
        assert not result.is_applied
        assert refusals(result) == [
            None,
            Refusal.STALE_VERSION,
            Refusal.NOT_FOUND,
            Refusal.NOT_FOUND,
        ]
        assert await live(tasks) == {stored.id: stored}
        assert await last_change(tasks) == 1

    async def test_a_batch_that_alters_nothing_takes_no_number(self, tasks: TaskRepository) -> None:
        task = a_task()
        await tasks.add(task)
        batch = Batch((ChangeTask(task.id, {"title": task.title}),))
        assert await tasks.apply("ada", batch, now=LATER) == BatchResult((Outcome(task),), True)
        assert await last_change(tasks) == 1

    async def test_a_batch_and_a_bulk_write_report_their_number_alone_if_they_alter_tasks(
        self, tasks: TaskRepository, reported: list[Change]
    ) -> None:
        task = a_task()
        batch = Batch((CreateTask(task),))
        await tasks.apply("ada", batch, now=NOW, key="key")
        await tasks.apply("ada", batch, now=NOW, key="key")
        await tasks.apply("ada", batch, now=NOW)
        await tasks.apply("ada", Batch((DeleteTask(uuid4()),)), now=NOW)
        for title in ("x", "x"):
            await tasks.change_matching("ada", TaskFilter(completed=False), now=NOW, title=title)
        for _ in range(2):
            await tasks.delete_matching("ada", TaskFilter(completed=False), now=NOW)
        assert reported == [Change("ada", number) for number in (1, 2, 3)]

    async def test_a_batch_of_the_maximal_size_is_applied(self, tasks: TaskRepository) -> None:
        new = [a_task(title=str(number)) for number in range(OPERATIONS_MAX)]
        result = await tasks.apply("ada", Batch(tuple(map(CreateTask, new))), now=NOW)
        assert [outcome.task for outcome in result.outcomes] == new
        assert await live(tasks) == {task.id: task for task in new}

    async def test_tasks_of_another_user_are_not_found_and_their_ids_are_free(
        self, tasks: TaskRepository
    ) -> None:
        of_eve = a_task(owner="eve")
        await tasks.add(of_eve)
        operations: list[Operation] = [
            ChangeTask(of_eve.id, {"title": "x"}),
            DeleteTask(of_eve.id),
            RestoreTask(of_eve.id),
        ]
        for operation in operations:
            result = await tasks.apply("ada", Batch((operation,)), now=LATER)
            assert refusals(result) == [Refusal.NOT_FOUND]
        result = await tasks.apply(
            "ada", Batch((CreateTask(replace(of_eve, owner="ada")),)), now=NOW
        )
        assert result.outcomes[0].is_new
        assert await live(tasks, "eve") == {of_eve.id: of_eve}

    async def test_a_change_that_breaks_a_rule_writes_nothing(self, tasks: TaskRepository) -> None:
        task = a_task()
        await tasks.add(task)
        batch = Batch((CreateTask(a_task()), ChangeTask(task.id, {"title": " "})))
        with pytest.raises(InvalidTask):
            await tasks.apply("ada", batch, now=LATER)
        assert await live(tasks) == {task.id: task}

    # --- Idempotency keys of batches ---

    async def test_a_repeated_key_returns_the_first_result(self, tasks: TaskRepository) -> None:
        old, new = a_task(title="é 'x'"), a_task(due_date=datetime.max.replace(tzinfo=NOW.tzinfo))
        await tasks.add(old)
        batch = Batch(
            (ChangeTask(old.id, {"completed": True}), CreateTask(new), DeleteTask(uuid4())),
            is_atomic=False,
        )
        first = await tasks.apply("ada", batch, now=NOW, key="key")
        await tasks.change("ada", old.id, now=LATER, title="y")
        await tasks.delete("ada", new.id, now=LATER)
        stored = await live(tasks)
        assert await tasks.apply("ada", again(batch, LATER), now=LATER, key="key") == first
        assert await live(tasks) == stored

    async def test_a_key_of_another_batch_is_refused(self, tasks: TaskRepository) -> None:
        task = a_task()
        batch = Batch((CreateTask(task),))
        await tasks.apply("ada", batch, now=NOW, key="key")
        others = [
            replace(batch, is_atomic=False),
            Batch((CreateTask(replace(task, title="x")),)),
            Batch((CreateTask(task), DeleteTask(uuid4()))),
            Batch((DeleteTask(task.id),)),
        ]
        for other in others:
            with pytest.raises(IdempotencyKeyReused):
                await tasks.apply("ada", other, now=NOW, key="key")
        with pytest.raises(IdempotencyKeyReused):
            await tasks.add(a_task(), key="key")
        assert await live(tasks) == {task.id: task}

    async def test_the_key_of_a_task_is_refused_for_a_batch(self, tasks: TaskRepository) -> None:
        task = a_task()
        await tasks.add(task, key="key")
        with pytest.raises(IdempotencyKeyReused):
            await tasks.apply("ada", Batch((CreateTask(task),)), now=NOW, key="key")

    async def test_a_rejected_batch_does_not_use_up_its_key(self, tasks: TaskRepository) -> None:
        task = a_task()
        batch = Batch((DeleteTask(task.id),))
        assert not (await tasks.apply("ada", batch, now=NOW, key="key")).is_applied
        await tasks.add(task)
        assert (await tasks.apply("ada", batch, now=NOW, key="key")).is_applied

    async def test_a_key_of_a_batch_is_valid_for_its_lifetime(self, tasks: TaskRepository) -> None:
        task = a_task()
        await tasks.add(task)
        batch = Batch((ChangeTask(task.id, {"completed": True}),))
        first = await tasks.apply("ada", batch, now=NOW, key="key")
        await tasks.change("ada", task.id, now=NOW, completed=False)
        late = NOW + KEY_LIFETIME
        assert await tasks.apply("ada", batch, now=late, key="key") == first
        second = await tasks.apply("ada", batch, now=late + INSTANT, key="key")
        assert second.outcomes[0].task == await tasks.get("ada", task.id) != first.outcomes[0].task

    @pytest.mark.parametrize("has_tasks", [False, True])
    async def test_of_concurrent_batches_with_one_key_one_is_applied_and_all_return_its_result(
        self, tasks: TaskRepository, *, has_tasks: bool
    ) -> None:
        task = a_task()
        operations: list[Operation] = [CreateTask(a_task()), CreateTask(a_task())]
        if has_tasks:
            await tasks.add(task)
            operations += [ChangeTask(task.id, {"completed": True}, if_version=1)]
        batch = Batch(tuple(operations))
        results = await asyncio.gather(
            *(tasks.apply("ada", batch, now=NOW, key="key") for _ in range(8))
        )
        assert all(result == results[0] and result.is_applied for result in results)
        assert len(await live(tasks)) == len(operations)

    # --- Concurrent batches ---

    async def test_of_concurrent_batches_on_one_version_exactly_one_is_applied(
        self, tasks: TaskRepository
    ) -> None:
        stored = [a_task() for _ in range(5)]
        for task in stored:
            await tasks.add(task)
        for version in range(1, 5):
            results = await asyncio.gather(
                *(
                    tasks.apply("ada", overlapping(stored, writer, version), now=LATER)
                    for writer in range(6)
                )
            )
            applied = [result.is_applied for result in results]
            assert applied.count(True) == 1
            current = (await live(tasks)).values()
            assert {task.version for task in current} == {version + 1}
            assert {task.title for task in current} == {f"{applied.index(True)} {version}"}

    async def test_concurrent_batches_of_one_user_are_all_applied_one_after_the_other(
        self, tasks: TaskRepository
    ) -> None:
        stored = [a_task() for _ in range(5)]
        for task in stored:
            await tasks.add(task)
        await asyncio.gather(
            *(tasks.apply("ada", overlapping(stored, writer), now=LATER) for writer in range(8))
        )
        current = (await live(tasks)).values()
        assert {task.version for task in current} == {9}
        assert len({task.title for task in current}) == 1

    async def test_of_concurrent_batches_that_create_one_task_one_creates_it(
        self, tasks: TaskRepository
    ) -> None:
        task = a_task()
        batches = [Batch((CreateTask(a_task()), CreateTask(task))) for _ in range(6)]
        results = await asyncio.gather(*(tasks.apply("ada", batch, now=NOW) for batch in batches))
        assert [result.outcomes[1].is_new for result in results].count(True) == 1
        assert all(result.is_applied for result in results)
        assert len(await live(tasks)) == len(batches) + 1

    async def test_of_concurrent_batches_with_different_tasks_of_one_id_one_is_applied(
        self, tasks: TaskRepository
    ) -> None:
        task = a_task()
        batches = [
            Batch((CreateTask(a_task()), CreateTask(replace(task, title=str(number)))))
            for number in range(6)
        ]
        results = await asyncio.gather(*(tasks.apply("ada", batch, now=NOW) for batch in batches))
        assert [result.is_applied for result in results].count(True) == 1
        assert len(await live(tasks)) == 2

    # --- Every task that matches ---

    @pytest.mark.parametrize("wanted", FILTERS)
    @pytest.mark.parametrize("changes", [{"completed": True}, {"title": "x", "tags": ["a"]}, {}])
    async def test_every_task_that_matches_is_changed_as_by_change(
        self, tasks: TaskRepository, wanted: TaskFilter, changes: TaskChanges
    ) -> None:
        model = {task.id: task for task in mixed_tasks()}
        for task in (*model.values(), *mixed_tasks("eve")):
            await tasks.add(task)
        expected = {
            task.id: task.changed(LATER, **changes) if wanted.matches(task) else task
            for task in model.values()
        }
        ids = await tasks.change_matching("ada", wanted, now=LATER, **changes)
        assert sorted(ids) == sorted(key for key in model if expected[key] is not model[key])
        assert await live(tasks) == expected
        assert len(await live(tasks, "eve")) == len(model)

    @pytest.mark.parametrize("wanted", FILTERS)
    async def test_every_task_that_matches_is_deleted_and_can_be_restored(
        self, tasks: TaskRepository, wanted: TaskFilter
    ) -> None:
        model = {task.id: task for task in mixed_tasks()}
        for task in (*model.values(), *mixed_tasks("eve")):
            await tasks.add(task)
        ids = await tasks.delete_matching("ada", wanted, now=LATER)
        assert sorted(ids) == sorted(task.id for task in model.values() if wanted.matches(task))
        assert await live(tasks) == {key: task for key, task in model.items() if key not in ids}
        assert len(await live(tasks, "eve")) == len(model)
        for task_id in ids:
            assert await tasks.restore("ada", task_id, now=LATER) == model[task_id]

    async def test_more_tasks_than_allowed_are_neither_changed_nor_deleted(
        self, tasks: TaskRepository
    ) -> None:
        model = {task.id: task for task in (a_task(), a_task(), a_task())}
        for task in model.values():
            await tasks.add(task)
        with pytest.raises(TooManyAffected) as refused:
            await tasks.delete_matching("ada", TaskFilter(), now=LATER, max_affected=2)
        assert refused.value.count == 3
        with pytest.raises(TooManyAffected):
            await tasks.change_matching("ada", TaskFilter(), now=LATER, max_affected=2, title="x")
        assert await live(tasks) == model
        assert await last_change(tasks) == 3
        ids = await tasks.delete_matching("ada", TaskFilter(), now=LATER, max_affected=3)
        assert len(ids) == 3

    async def test_a_change_of_matching_tasks_that_breaks_a_rule_writes_nothing(
        self, tasks: TaskRepository
    ) -> None:
        task = a_task()
        await tasks.add(task)
        with pytest.raises(InvalidTask):
            await tasks.change_matching("ada", TaskFilter(), now=LATER, title="", completed=True)
        assert await live(tasks) == {task.id: task}

    async def test_of_concurrent_deletes_of_matching_tasks_each_task_is_deleted_once(
        self, tasks: TaskRepository
    ) -> None:
        stored = [a_task() for _ in range(10)]
        for task in stored:
            await tasks.add(task)
        deleted = await asyncio.gather(
            *(tasks.delete_matching("ada", TaskFilter(), now=LATER) for _ in range(5))
        )
        assert sorted(sum(deleted, ())) == sorted(task.id for task in stored)

    async def test_concurrent_changes_of_matching_tasks_are_all_applied(
        self, tasks: TaskRepository
    ) -> None:
        stored = [a_task() for _ in range(5)]
        for task in stored:
            await tasks.add(task)
        await asyncio.gather(
            *(
                tasks.change_matching("ada", TaskFilter(), now=LATER, **changes)
                for changes in (
                    TaskChanges(title="x"),
                    TaskChanges(description="y"),
                    TaskChanges(completed=True),
                )
            ),
            tasks.apply("ada", overlapping(stored, 1), now=LATER),
        )
        assert {(task.version, task.description) for task in (await live(tasks)).values()} == {
            (5, "y")
        }

    # --- Repeating tasks ---

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    async def test_completions_in_one_call_make_the_successors_with_the_same_number(
        self, tasks: TaskRepository, write: Write
    ) -> None:
        task, other = await tasks.add(a_repeating_task()), await tasks.add(a_task())
        await write(tasks, [task, other], {"completed": True})
        completed = task.changed(LATER, completed=True)
        successor = completed.successor()
        assert successor is not None
        stored = await live(tasks)
        assert stored == {
            task.id: completed,
            other.id: other.changed(LATER, completed=True),
            successor.id: successor,
        }
        page = await tasks.changes("ada", after=FeedPosition(), floor=0, limit=9)
        numbers = {entry.id: entry.change for entry in page.entries}
        assert numbers[task.id] == numbers[successor.id]

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    async def test_reopening_tasks_in_one_call_removes_their_untouched_successors(
        self, tasks: TaskRepository, write: Write
    ) -> None:
        task = await tasks.add(a_repeating_task())
        for _ in range(2):
            await write(tasks, [task], {"completed": True})
            assert len(await live(tasks)) == 2
            await write(tasks, [task], {"completed": False})
            ((task_id, reopened),) = (await live(tasks)).items()
            assert (task_id, reopened.completed, reopened.next_id) == (task.id, False, None)

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    async def test_reopening_tasks_in_one_call_keeps_successors_that_were_changed(
        self, tasks: TaskRepository, write: Write
    ) -> None:
        task = await tasks.add(a_repeating_task())
        await write(tasks, [task], {"completed": True})
        (successor,) = [each for each in (await live(tasks)).values() if not each.completed]
        changed = await tasks.change("ada", successor.id, now=LATER, title="x")
        for completed in (False, True):
            await write(tasks, [task], {"completed": completed})
            stored = await live(tasks)
            assert stored.keys() == {task.id, successor.id}
            assert stored[successor.id] == changed

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    async def test_the_rules_of_several_tasks_can_be_set_and_cleared(
        self, tasks: TaskRepository, write: Write
    ) -> None:
        stored = [await tasks.add(a_task()), await tasks.add(a_repeating_task())]
        rule = Repeat(Unit.MONTH, 2)
        await write(tasks, stored, {"repeat": rule, "due_date": date(2026, 1, 31)})
        assert {task.repeat for task in (await live(tasks)).values()} == {rule}
        await write(tasks, stored, {"repeat": None})
        assert {task.repeat for task in (await live(tasks)).values()} == {None}

    async def test_an_operation_that_takes_what_a_repeating_task_needs_is_refused(
        self, tasks: TaskRepository
    ) -> None:
        task, other = await tasks.add(a_repeating_task()), await tasks.add(a_task())
        operations = tuple(ChangeTask(each.id, {"due_date": None}) for each in (task, other))
        result = await tasks.apply("ada", Batch(operations, is_atomic=False), now=LATER)
        assert result.outcomes == (Outcome(task, Refusal.INVALID), Outcome(other))
        renamed = (*operations[:1], ChangeTask(other.id, {"title": "x"}))
        assert not (await tasks.apply("ada", Batch(renamed), now=LATER)).is_applied
        assert await live(tasks) == {task.id: task, other.id: other}

    async def test_a_change_of_matching_tasks_that_takes_what_one_needs_writes_nothing(
        self, tasks: TaskRepository
    ) -> None:
        stored = [await tasks.add(a_task(due_date=NOW)), await tasks.add(a_repeating_task())]
        with pytest.raises(InvalidTask):
            await tasks.change_matching("ada", TaskFilter(), now=LATER, due_date=None)
        assert await live(tasks) == {task.id: task for task in stored}

    @pytest.mark.parametrize("max_affected", [0, 1])
    async def test_repeating_tasks_count_among_the_affected(
        self, tasks: TaskRepository, max_affected: int
    ) -> None:
        stored = [await tasks.add(a_task()), await tasks.add(a_repeating_task())]
        with pytest.raises(TooManyAffected):
            await tasks.change_matching(
                "ada", TaskFilter(), now=LATER, max_affected=max_affected, completed=True
            )
        assert await live(tasks) == {task.id: task for task in stored}

    async def test_concurrent_calls_that_complete_one_task_make_one_successor(
        self, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_repeating_task())
        writes = [write(tasks, [task], {"completed": True}) for write in WRITES.values()]
        await asyncio.gather(*writes, *(tasks.get("ada", task.id) for _ in range(3)))
        assert len(await live(tasks)) == 2

    async def test_a_repeated_key_returns_the_first_result_of_a_completion(
        self, tasks: TaskRepository
    ) -> None:
        task = await tasks.add(a_repeating_task())
        batch = Batch((ChangeTask(task.id, {"completed": True}),))
        first = await tasks.apply("ada", batch, now=LATER, key="k")
        await tasks.change("ada", task.id, now=LATER, title="x")
        assert await tasks.apply("ada", batch, now=LATER, key="k") == first


def overlapping(stored: list[Task], writer: int, version: int | None = None) -> Batch:
    """A writer's change of every task, each writer in another order."""
    order = stored[writer % len(stored) :] + stored[: writer % len(stored)]
    return Batch(
        tuple(ChangeTask(task.id, {"title": f"{writer} {version}"}, version) for task in order)
    )


def again(batch: Batch, now: datetime) -> Batch:
    """The batch of a client that repeats its request at that time."""
    return replace(
        batch,
        operations=tuple(
            CreateTask(replace(operation.task, created_at=now, updated_at=now))
            if isinstance(operation, CreateTask)
            else operation
            for operation in batch.operations
        ),
    )


def random_batch(random: Random, model: dict[UUID, StoredTask], now: datetime) -> Batch:
    """Operations of every kind on known and unknown tasks, at their versions and at others."""
    ids = [*random.sample(sorted(model), min(len(model), 8)), *(uuid4() for _ in range(3))]
    operations = [random_operation(random, task_id, model.get(task_id), now) for task_id in ids]
    return Batch(tuple(operations), is_atomic=random.random() < 0.3)


def random_operation(
    random: Random, task_id: UUID, stored: StoredTask | None, now: datetime
) -> Operation:
    version = stored.task.version if stored else 1
    match random.randrange(6):
        case 0:
            return DeleteTask(task_id, random.choice((None, version, version + 1)))
        case 1:
            return RestoreTask(task_id)
        case 2 if stored:
            members = cast("TaskChanges", stored.task.content)
            return CreateTask(Task.new(task_id, "ada", now, **members))
        case 2 | 3:
            members = {"title": "New", **random.choice(CHANGES)}
            return CreateTask(Task.new(task_id, "ada", now, **members))
        case _:
            if_version = random.choice((None, None, version, version + 1))
            return ChangeTask(task_id, random.choice(CHANGES), if_version)


def apply_to(model: dict[UUID, StoredTask], batch: Batch, now: datetime) -> BatchResult:
    """Apply the batch to a model of the stored tasks."""
    decided = {
        operation.id: decide(operation, model.get(operation.id), now, RETENTION)
        for operation in batch.operations
    }
    result = BatchResult.of(batch, [outcome for outcome, _ in decided.values()])
    if result.is_applied:
        new = [state for _, state in decided.values() if state]
        model.update({state.task.id: state for state in with_successors(model, new, now)})
    return result


def refusals(result: BatchResult) -> list[Refusal | None]:
    return [outcome.refusal for outcome in result.outcomes]


async def live(tasks: TaskRepository, owner: str = "ada") -> dict[UUID, Task]:
    return {task.id: task for task in (await tasks.find(owner, TaskQuery())).tasks}


async def last_change(tasks: TaskRepository) -> int:
    return (await tasks.find("ada", TaskQuery(limit=1))).state.last
