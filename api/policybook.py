"""The policy in force, compiled once and kept up with the database, for questions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from egress.engine.policy import Rulebook
from egress.model import Policy
from egress.store import rules


class PolicyBook:
    """One an application; safe to ask from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._book: Rulebook | None = None

    @contextmanager
    def current(self, engine: Engine) -> Iterator[Rulebook]:
        """The rules in force; nobody else uses them meanwhile."""
        with self._lock, engine.connect() as connection:  # in this order: no reader is behind the book
            version = rules.current(connection)
            if self._book is None or self._book.version > version:  # another database in its place
                self._book = Rulebook(rules.snapshot(connection) or Policy())
            elif self._book.version < version:
                self._book.apply(rules.changes(connection, self._book.version))
            yield self._book
