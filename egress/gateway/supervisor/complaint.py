"""Limit the rate of log lines about a lasting error: one when it begins or changes, then every REPEAT_SECONDS."""

from __future__ import annotations

import time

REPEAT_SECONDS = 30.0


class Complaint:
    """The rate limit of one source of errors."""

    def __init__(self) -> None:
        self._trouble: str | None = None
        self._next = 0.0

    def due(self, trouble: str = "") -> bool:
        """Return True if the error `trouble` is to be logged now; then it is not due again for REPEAT_SECONDS."""
        now = time.monotonic()
        if trouble == self._trouble and now <= self._next:
            return False
        self._trouble, self._next = trouble, now + REPEAT_SECONDS
        return True

    def over(self) -> None:
        """Note that the error has ended: the next one is due at once."""
        self._trouble = None
