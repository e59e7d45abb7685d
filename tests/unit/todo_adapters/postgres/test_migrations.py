"""Migrations only add, so that the version before keeps working during a deployment.

If the type of a column changes, statements that running services have prepared fail, or read wrong
values if both types have the same width.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import todo_adapters.postgres

VERSIONS: Final = Path(todo_adapters.postgres.__file__).parent / "migrations" / "versions"
MIGRATIONS: Final = sorted(VERSIONS.glob("*.py"))
DESTRUCTIVE: Final = frozenset({"drop_column", "drop_table", "rename_table"})


def breaking_operations(source: str) -> Iterator[str]:
    """The operations of a migration that break a running service."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, options = node.func.attr, {keyword.arg for keyword in node.keywords}
            if name in DESTRUCTIVE or (
                name == "alter_column" and options & {"type_", "new_column_name"}
            ):
                yield name
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.upper().split()
            if "ALTER" in words and {"TYPE", "RENAME"} & set(words):
                yield node.value


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_a_migration_does_not_break_the_version_before(path: Path) -> None:
    assert list(breaking_operations(path.read_text())) == []


@pytest.mark.parametrize(
    "operation",
    [
        'op.alter_column("tasks", "version", type_=sa.BigInteger)',
        'op.alter_column("tasks", "title", new_column_name="name")',
        'op.drop_column("tasks", "title")',
        'op.drop_table("tasks")',
        'op.rename_table("tasks", "todos")',
        'op.execute("ALTER TABLE todo.tasks ALTER COLUMN version TYPE bigint")',
        'op.execute("alter table todo.tasks rename column title to name")',
    ],
)
def test_a_breaking_operation_is_found(operation: str) -> None:
    assert list(breaking_operations(f"def upgrade():\n    {operation}\n"))


@pytest.mark.parametrize(
    "operation",
    [
        'op.add_column("tasks", sa.Column("colour", sa.Text))',
        'op.alter_column("tasks", "title", nullable=True)',
        'op.create_index("an_index", "tasks", ["title"])',
        'op.drop_index("an_index", "tasks")',
    ],
)
def test_an_adding_operation_is_allowed(operation: str) -> None:
    assert not list(breaking_operations(f"def upgrade():\n    {operation}\n"))
