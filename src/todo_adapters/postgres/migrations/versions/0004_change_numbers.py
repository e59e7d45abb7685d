"""Change numbers and folded texts: columns, counters, and triggers for version 0.1.

Version 0.1 keeps writing during a rolling deployment and knows nothing of the new columns. The
triggers take a change number for its writes and fold its texts, which are null for ASCII texts.
Statements of later versions set ``change`` themselves, so the triggers never run for them.
"""

import json
import sys

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_FOLDED = {
    character: character.casefold()
    for character in map(chr, range(sys.maxunicode + 1))
    if character.casefold() != character
}
# ``todo_domain.task.fold`` in SQL. lower() depends on the database's locale, and does not fold.
_FOLD_FUNCTION = f"""
CREATE FUNCTION todo.fold(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
SELECT normalize(string_agg(coalesce(folded ->> letter, letter), '' ORDER BY number))
FROM unnest(string_to_array(normalize(value, NFD), NULL)) WITH ORDINALITY AS l (letter, number),
  (SELECT '{json.dumps(_FOLDED, ensure_ascii=False, indent=0)}'::jsonb) AS m (folded)
$$
"""  # noqa: S608 - a constant
# SECURITY DEFINER, because the role of version 0.1 may have no rights to the new tables yet.
_TRIGGER_FUNCTION = """
CREATE FUNCTION todo.complete_row_of_version_0_1() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO todo.changes AS counter (user_id, last) VALUES (NEW.user_id, 1)
  ON CONFLICT (user_id) DO UPDATE SET last = counter.last + 1
  RETURNING last INTO NEW.change;
  NEW.title_folded := CASE WHEN NEW.title ~ '[^[:ascii:]]' THEN todo.fold(NEW.title) END;
  NEW.description_folded :=
    CASE WHEN NEW.description ~ '[^[:ascii:]]' THEN todo.fold(NEW.description) END;
  RETURN NEW;
END
$$
"""
_INSERT_TRIGGER = """
CREATE TRIGGER complete_insert_of_version_0_1 BEFORE INSERT ON todo.tasks FOR EACH ROW
WHEN (NEW.change = 0) EXECUTE FUNCTION todo.complete_row_of_version_0_1()
"""
# Version 0.1 rewrites a row as it is when a change alters nothing; such a write is not counted.
_UPDATE_TRIGGER = """
CREATE TRIGGER complete_update_of_version_0_1 BEFORE UPDATE ON todo.tasks FOR EACH ROW
WHEN (NEW.change = OLD.change AND (NEW.version, NEW.deleted_at)
  IS DISTINCT FROM (OLD.version, OLD.deleted_at))
EXECUTE FUNCTION todo.complete_row_of_version_0_1()
"""


def upgrade() -> None:
    # These locks block reads of the tasks. A statement that waits for one blocks all later ones, so
    # it gives up after a second, and ``migrate`` tries again.
    op.execute("SET LOCAL lock_timeout = '1s'")
    op.create_table(
        "changes",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column(
            "began_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        schema="todo",
        postgresql_with={"fillfactor": 50},  # space for HOT updates of the counter
    )
    op.create_table(
        "sync",
        sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("epoch", sa.Uuid, nullable=False, server_default=sa.func.gen_random_uuid()),
        sa.CheckConstraint("one", name=op.f("sync_one_check")),
        schema="todo",
    )
    op.execute("INSERT INTO todo.sync DEFAULT VALUES")
    op.add_column(
        "tasks",
        sa.Column("change", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        schema="todo",
    )
    op.add_column("tasks", sa.Column("title_folded", sa.Text), schema="todo")
    op.add_column("tasks", sa.Column("description_folded", sa.Text), schema="todo")
    op.execute(_FOLD_FUNCTION)
    op.execute(_TRIGGER_FUNCTION)
    op.execute(_INSERT_TRIGGER)
    op.execute(_UPDATE_TRIGGER)
