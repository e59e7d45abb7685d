"""Tasks in PostgreSQL: the address, the pool, the tables, the repository and the migrations."""
