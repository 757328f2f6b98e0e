"""Errors of the store besides InputError: an edit that cannot be made, and data that cannot be read."""

from __future__ import annotations

from egress.errors import EgressError


class ConflictError(EgressError):
    """An edit contradicts the database's contents. `target` is the id or name of the row in the way."""

    def __init__(self, text: str, target: str) -> None:
        super().__init__(text)
        self.target = target


class NotFoundError(EgressError):
    """The row that the caller names is not stored; `target` is its id or name."""

    def __init__(self, text: str, target: str) -> None:
        super().__init__(text)
        self.target = target


class OldSchemaError(EgressError):
    """The database has the schema of an older egress, and the caller may not upgrade it."""


class DamagedDataError(EgressError):
    """The database contains a value that egress never writes: it was damaged, or made by another program.

    `why` says what is wrong with the value.
    """

    def __init__(self, why: str, where: str = "the database") -> None:
        super().__init__(f"{where} holds a value that egress never writes: damaged, or made up ({why[:200]})")
        self.why = why
