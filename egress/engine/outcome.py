"""The engine's answer to one packet."""

from __future__ import annotations

from typing import NamedTuple

from egress.model import Verdict
from egress.records.shape import Record


class Outcome(NamedTuple):
    """The engine's answer to one packet."""

    verdict: Verdict
    records: tuple[Record, ...] = ()
