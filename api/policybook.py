"""The policy in force for the agents of a host, compiled once and kept up with the database, for questions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from egress.model import Policy
from egress.policy.rulebook import Rulebook
from egress.store.database.handles import Engine
from egress.store.policy import ruleset

MAX_BOOKS = 8  # hosts whose policy is kept compiled: one of 100,000 rules takes 40 MiB


class PolicyBook:
    """One an application; safe to ask from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, Rulebook] = {}  # by host, that asked for last is the last

    @contextmanager
    def current(self, engine: Engine, host: str) -> Iterator[Rulebook]:
        """The rules in force for agents of this host; nobody else uses them meanwhile."""
        with self._lock, engine.connect() as connection:  # in this order: no reader is behind the book
            version, book = ruleset.current(connection), self._books.pop(host, None)
            if book is None or book.version > version:  # another database in its place
                book = Rulebook(ruleset.snapshot(connection, host=host) or Policy())
            elif book.version < version:
                book.apply(ruleset.changes(connection, book.version, host))
            self._books[host] = book
            for oldest in list(self._books)[:-MAX_BOOKS]:
                del self._books[oldest]
            yield book
