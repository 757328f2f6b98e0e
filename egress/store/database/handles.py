"""The names of SQLAlchemy that other rooms may pass around and catch. They import nothing else of it: no SQL.

A room that holds a connection or catches an error takes the name from here; the statements themselves live in
`egress.store` alone.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

Condition = ColumnElement[bool]  # which rows; made and read by `egress.store.query` only

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
