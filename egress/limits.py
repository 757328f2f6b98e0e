"""The bounds of the engine: sizes, counts and times, each with its default."""

from __future__ import annotations

from dataclasses import dataclass

from egress.errors import InputError

EVIDENCE_PACKETS = 64  # the most that Limits.evidence_packets may be


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine, per worker process. Times in seconds."""

    max_flows: int = 65536  # tracked flows; when full, an idle or decided one is forgotten, else the new one refused
    max_flows_agent: int = 16384  # tracked flows of one agent
    stream_buffer: int = 65536  # out-of-order bytes held for each direction of a flow
    max_buffered: int = 64 * 1024 * 1024  # bytes held for inspection over all flows of one agent
    settle_bytes: int = 65536  # a flow settles once a direction has had this many bytes without a finding
    tcp_handshake: float = 60.0  # silence after which a TCP connection is forgotten whose handshake is not complete
    tcp_established: float = 7500.0  # the same for an established one (RFC 5382 REQ-5: not below 2 h 4 min)
    tcp_closed: float = 30.0  # the same for one that is closed or refused
    udp_timeout: float = 180.0  # the same for a UDP flow
    other_timeout: float = 60.0  # the same for a flow of any other protocol
    refused_timeout: float = 600.0  # a refused flow is remembered this long after its last packet
    destination_timeout: float = 3600.0  # a refused destination is remembered this long after it was last tried
    midstream_grace: float = 300.0  # after a start, connections may be picked up in mid-stream for this long
    idle_gap: float = 0.4  # silence of both sides that ends a burst
    ask_timeout: float = 120.0  # a flow or query that waits for an approval is refused after this long
    ask_holds: int = 64  # holds of one agent that wait at a time; more are refused at once
    ask_query: float = 2.0  # a query on hold is answered after this long (resolvers give up after 5); its hold goes on
    ask_names: int = 64  # names that an agent in mode ask may resolve in an hour without a rule; 0: each one is held
    ask_cooldown: float = 30.0  # after a denial the same question is refused at once for this long
    records_agent: int = 10_000  # records of one agent written one by one in a burst; more are folded; 0: no quota
    records_agent_day: int = 250_000  # and in 24 hours: the rate at which the burst is refilled
    evidence_packets: int = 32  # packets of an undecided flow kept for a finding, half of them the first; 0: none
    evidence_bytes: int = 32768  # bytes of those packets, at most

    def __post_init__(self) -> None:
        if self.records_agent < 0 or self.records_agent_day < 0:
            raise InputError("limits: records_agent (0: no quota) and records_agent_day must not be negative")
        if not (0 <= self.evidence_packets <= EVIDENCE_PACKETS and 0 <= self.evidence_bytes <= 32768):
            raise InputError(
                f"limits: evidence_packets must be from 0 to {EVIDENCE_PACKETS}, evidence_bytes from 0 to 32768"
            )
