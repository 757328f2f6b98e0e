"""The database's schema, revision by revision (Alembic); `egress.store.database` applies them, without an alembic.ini.

A change of `egress/store/tables.py` needs a new file in `versions/` (and `HEAD` in `egress/store/database.py`);
tests/store/test_migrations.py compares the two and names every difference.
"""
