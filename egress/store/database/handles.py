"""The names of SQLAlchemy that rooms outside `egress.store` use: types to pass on, errors to catch.

These rooms import nothing from SQLAlchemy itself, because SQL statements are in `egress.store` only.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

Condition = ColumnElement[bool]  # selects rows; `egress.store.query` makes and applies it, others pass it on

__all__ = [
    "Condition",
    "Connection",
    "DBAPIError",
    "DataError",
    "Engine",
    "IntegrityError",
    "PoolTimeoutError",
    "SQLAlchemyError",
]
