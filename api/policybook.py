"""Caches the compiled policy of each host for what-if questions, and updates it from the database at each use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from egress.model import Policy
from egress.policy.rulebook import Rulebook
from egress.store.database.handles import Engine
from egress.store.policy import ruleset

MAX_BOOKS = 8  # compiled policies, one for each host; 100,000 rules take 40 MiB


class PolicyBook:
    """The compiled policies of one application: the MAX_BOOKS used last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, Rulebook] = {}  # by host, the most recently used last

    @contextmanager
    def current(self, engine: Engine, host: str) -> Iterator[Rulebook]:
        """Yield the rules in force for the agents of a host, up to date; holds the lock until the caller is done."""
        # The lock comes first: a connection that waited for it could read an older version than the book's.
        with self._lock, engine.connect() as connection:
            version, book = ruleset.current(connection), self._books.pop(host, None)
            if book is None or book.version > version:  # a book newer than the database: the database was replaced
                book = Rulebook(ruleset.snapshot(connection, host=host) or Policy())
            elif book.version < version:
                book.apply(ruleset.changes(connection, book.version, host))
            self._books[host] = book
            for oldest in list(self._books)[:-MAX_BOOKS]:
                del self._books[oldest]
            yield book
