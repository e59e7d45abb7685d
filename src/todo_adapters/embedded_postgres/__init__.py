"""A PostgreSQL server that needs no installation, for `todo-api dev` and the tests."""
