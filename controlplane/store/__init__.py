"""What outlives a restart of the control plane, in SQLite or PostgreSQL.

    sql_store   SqlStore: open, load, apply, next_epoch, samples
    database    opens: URL, engine, pragmas, file lock       migrate   the schema, by alembic
    rows        resources to rows and back                   tables    the columns
    failures    the database's refusals in plain words

Nothing is imported here: SQLAlchemy takes half a second to load, and only `sql_store` needs it.
"""
