"""The revisions of the database's schema (Alembic), applied by `egress.store.database.database`.

A change of `egress/store/database/tables.py` needs a new file in `versions/`, and `HEAD` in `database.py` beside it;
tests/store/database/test_migrations.py compares the two and names every difference.
"""
