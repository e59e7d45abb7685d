"""Row-level security on the tasks: a second check, in case a statement does not name its owner.

The policy shows the rows of the user that the transaction has set, and no rows if none is set. It
applies to the table's owner too (FORCE), but never to superusers and roles with BYPASSRLS, such as
Neon's default role.
"""

from typing import Final

from sqlalchemy import Connection, text

from todo_adapters.postgres.tables import OWNER_SETTING, SCHEMA

_IS_OWN: Final = f"user_id = current_setting('{OWNER_SETTING}', true)"
_ENABLE: Final = (
    f"CREATE POLICY own_tasks ON {SCHEMA}.tasks USING ({_IS_OWN}) WITH CHECK ({_IS_OWN})",
    f"ALTER TABLE {SCHEMA}.tasks ENABLE ROW LEVEL SECURITY",
    f"ALTER TABLE {SCHEMA}.tasks FORCE ROW LEVEL SECURITY",
)
_DISABLE: Final = (
    f"ALTER TABLE {SCHEMA}.tasks NO FORCE ROW LEVEL SECURITY",
    f"ALTER TABLE {SCHEMA}.tasks DISABLE ROW LEVEL SECURITY",
    f"DROP POLICY own_tasks ON {SCHEMA}.tasks",
)
_STATE: Final = text(
    "SELECT relforcerowsecurity AS is_enabled,"
    " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS is_bypassed"
    " FROM pg_class WHERE oid = to_regclass(:table)"
)
_GRANTS: Final = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
)


def configure_rls(connection: Connection, *, rls_enabled: bool, role: str | None) -> None:
    """Enable or disable row-level security, and grant the service's ``role`` what it needs."""
    state = connection.execute(_STATE, {"table": f"{SCHEMA}.tasks"}).one()
    if state.is_enabled != rls_enabled:
        for statement in _ENABLE if rls_enabled else _DISABLE:
            connection.execute(text(statement))
    if role and role != connection.execute(text("SELECT current_user")).scalar_one():
        name = connection.dialect.identifier_preparer.quote_identifier(role)
        for grant in _GRANTS:
            connection.execute(text(grant.format(schema=SCHEMA, role=name)))


def find_rls_problem(connection: Connection, *, rls_enabled: bool) -> str | None:
    """Why row-level security is not as configured, and what to do; None if all is well."""
    state = connection.execute(_STATE, {"table": f"{SCHEMA}.tasks"}).one_or_none()
    if state is None:
        return None  # not migrated, which is reported elsewhere
    if rls_enabled and state.is_bypassed:
        return (
            "DATABASE_RLS=on, but the role of DATABASE_URL bypasses row-level security: create a "
            "role with CREATE ROLE … LOGIN NOBYPASSRLS, use it in DATABASE_URL, and use the "
            "present role in DATABASE_URL_DIRECT"
        )
    if state.is_enabled and not rls_enabled and not state.is_bypassed:
        return (
            "the tasks have row-level security: set DATABASE_RLS=on, or run `todo-api migrate` "
            "with DATABASE_RLS=off to disable it"
        )
    if rls_enabled and not state.is_enabled:
        return (
            "DATABASE_RLS=on, but the tasks have no row-level security: run "
            "`DATABASE_RLS=on todo-api migrate`"
        )
    return None
