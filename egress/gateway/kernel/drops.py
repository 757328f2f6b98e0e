"""Read the numbers of packets that the kernel dropped because no worker read them in time, from its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STATISTICS = Path("/proc/net/netfilter/nfnetlink_queue")


class Drops(NamedTuple):
    """The numbers of packets dropped at one queue, by cause."""

    queue: int  # the queue was full
    socket: int  # the socket's buffer was full


def drops(statistics: Path = STATISTICS) -> dict[int, Drops]:
    """Read the drops of each bound queue since it was bound, by queue number; empty if no queue is bound.

    Columns: queue, port id, waiting, copy mode, copy range, dropped by queue, dropped by socket, last id, 1.
    """
    try:
        lines = statistics.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    return {int(row[0]): Drops(int(row[5]), int(row[6])) for line in lines if len(row := line.split()) >= 7}
