"""The engine's answer to a packet."""

from __future__ import annotations

from typing import NamedTuple

from egress.model import Verdict
from egress.records.shape import Record


class Outcome(NamedTuple):
    """The engine's answer to one packet, and the records that the packet caused."""

    verdict: Verdict
    records: tuple[Record, ...] = ()
