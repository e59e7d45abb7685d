"""Tasks in PostgreSQL: database URL, connections, tables, SQL, repository and migrations."""
