"""Flows with what belongs to them, for programs."""

from __future__ import annotations

from egress.eve import process_part, to_eve
from egress.store.reader import Told


def flow_document(told: Told) -> dict[str, object]:
    """The EVE flow with its findings and its process (null: nothing is recorded of it)."""
    return {
        **to_eve(told.flow),
        "findings": [to_eve(finding) for finding in told.findings],
        "process": process_part(told.process),
    }
