"""A seal as a row of the table `seals`."""

from __future__ import annotations

from dataclasses import dataclass

from egress.records.shape import SealRecord


@dataclass(frozen=True, slots=True)
class StoredSeal(SealRecord):
    """A seal, and the leaves (key and hash, LEAF_BYTES each) of the lines that it covers, joined in their order."""

    leaves: bytes
