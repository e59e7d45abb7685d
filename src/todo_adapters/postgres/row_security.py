"""A second wall: row-level security on the tasks, should a statement ever forget its owner.

The policy shows the rows of the user that the transaction names, and none where it names nobody.
It holds for the table's owner too (FORCE), but never for superusers and roles with BYPASSRLS, such
as the one that Neon makes by default: ``weakness`` says so.
"""

from typing import Final

from sqlalchemy import Connection, text

from todo_adapters.postgres.tables import OWNER_SETTING, SCHEMA

_IS_OWN: Final = f"user_id = current_setting('{OWNER_SETTING}', true)"
_RAISE: Final = (
    f"CREATE POLICY own_tasks ON {SCHEMA}.tasks USING ({_IS_OWN}) WITH CHECK ({_IS_OWN})",
    f"ALTER TABLE {SCHEMA}.tasks ENABLE ROW LEVEL SECURITY",
    f"ALTER TABLE {SCHEMA}.tasks FORCE ROW LEVEL SECURITY",
)
_LOWER: Final = (
    f"ALTER TABLE {SCHEMA}.tasks NO FORCE ROW LEVEL SECURITY",
    f"ALTER TABLE {SCHEMA}.tasks DISABLE ROW LEVEL SECURITY",
    f"DROP POLICY own_tasks ON {SCHEMA}.tasks",
)
_STATE: Final = text(
    "SELECT relforcerowsecurity AS is_up,"
    " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses"
    " FROM pg_class WHERE oid = to_regclass(:table)"
)
_GRANTS: Final = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
)


def configure_rls(connection: Connection, *, is_up: bool, role: str | None) -> None:
    """Raise or lower the wall if it is not so already, and let the service's role in.

    ``role`` is the one that the service runs as; what it lacks is granted if another one migrates.
    """
    state = connection.execute(_STATE, {"table": f"{SCHEMA}.tasks"}).one()
    if state.is_up != is_up:
        for statement in _RAISE if is_up else _LOWER:
            connection.execute(text(statement))
    if role and role != connection.execute(text("SELECT current_user")).scalar_one():
        name = connection.dialect.identifier_preparer.quote_identifier(role)
        for grant in _GRANTS:
            connection.execute(text(grant.format(schema=SCHEMA, role=name)))


def weakness(connection: Connection, *, is_up: bool) -> str | None:
    """What keeps the wall from being as wanted, and the mend; None if nothing does."""
    state = connection.execute(_STATE, {"table": f"{SCHEMA}.tasks"}).one_or_none()
    if state is None:
        return None  # not migrated: told elsewhere
    if is_up and state.bypasses:
        return (
            "DATABASE_RLS=on, but the role of DATABASE_URL bypasses row-level security: make one "
            "in SQL with CREATE ROLE … LOGIN NOBYPASSRLS, use it in DATABASE_URL, and the present "
            "one in DATABASE_URL_DIRECT"
        )
    if state.is_up and not is_up and not state.bypasses:
        return "the tasks are behind row-level security: set DATABASE_RLS=on, or migrate without"
    if is_up and not state.is_up:
        return "DATABASE_RLS=on, but the wall is not up: run `DATABASE_RLS=on todo-api migrate`"
    return None
