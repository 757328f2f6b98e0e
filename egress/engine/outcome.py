"""The engine's answer to a packet."""

from __future__ import annotations

from typing import NamedTuple

from egress.model import Verdict
from egress.records.shape import Record


class Reply(NamedTuple):
    """A refusal in the protocol of the refused packet, to be sent to the agent in the name of the other side."""

    data: bytes  # payload of the datagram, or bytes of the TCP connection, which ends with them
    seq: int = 0  # TCP: the number of the first of these bytes
    ack: int = 0  # TCP: the number of the byte that the agent sends next


class Outcome(NamedTuple):
    """The engine's answer to one packet, and the records that the packet caused."""

    verdict: Verdict
    records: tuple[Record, ...] = ()
    reply: Reply | None = None  # if it can be sent, the packet is dropped and its connection not marked
