"""Query plans: the database's plan for each SELECT of a question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.questions import Known, Question


def explained(engine: Engine, question: Question, known: Known, *settings: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (statement, steps of its plan) for each SELECT of a question.

    `settings` are SQL statements that PostgreSQL runs before it plans.
    """
    with _noted(engine) as asked:
        question.ask(engine, known)
    with engine.connect() as connection:
        for setting in settings if engine.dialect.name == "postgresql" else ():
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        for statement, parameters in asked:
            yield " ".join(statement.split()), plan(connection, statement, parameters)


def plan(connection: sa.Connection, statement: str, parameters: object) -> list[str]:
    """Return the steps of a statement's plan, one line per step."""
    if connection.dialect.name == "sqlite":
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]  # type: ignore[arg-type]
    return [row[0] for row in connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {statement}", parameters)]  # type: ignore[arg-type]


@contextmanager
def _noted(engine: Engine) -> Iterator[list[tuple[str, object]]]:
    """Yield a list to which each SELECT that the engine runs within the block is added, with its parameters."""
    asked: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            asked.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


_PART = re.compile(r"_(?:d[0-9]{8}|rest)(?=_|\b)(?: \w+_[0-9]+)?")
_ACCESS = re.compile(
    r"(?:SEARCH|SCAN) (?!anon)\w.*"  # SQLite
    r"|(?:Index Only Scan|Index Scan|Bitmap Index Scan|Seq Scan)(?: Backward)?(?: using \S+)? on \S+"
)


def accesses(steps: list[str]) -> list[str]:
    """List the scans and index searches among the steps of plans, each once; a table's days count as one (`_DAY`)."""
    found: dict[str, None] = {}
    for step in steps:
        match = _ACCESS.search(step)
        if match is not None:
            found[_PART.sub("_DAY", match[0]).strip()] = None
    return list(found)
