"""A seal as a row of the database."""

from __future__ import annotations

from dataclasses import dataclass

from egress.records.shape import SealRecord


@dataclass(frozen=True, slots=True)
class StoredSeal(SealRecord):
    """A seal and the leaves of its lines, in their order."""

    leaves: bytes
