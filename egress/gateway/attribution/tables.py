"""Find ping sockets and raw sockets, which sock_diag does not list, in the tables of /proc/net.

In the column of the local port a ping socket has the identifier of its echo requests. A raw socket has its protocol
number there, and sends any identifier that its process writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from egress.gateway.attribution.diag import Socket
from egress.gateway.pipe.note import Note
from egress.model import ICMP, ICMPV6

MAX_TABLE = 1 << 18  # bytes read of a table: some two thousand sockets
ECHO = (ICMP, ICMPV6)

_HERE = Path("/proc/thread-self/net")  # of the namespace this thread is in
_LINE = re.compile(
    rb" *\d+: [0-9A-F]{8,32}:(?P<port>[0-9A-F]{4}) [0-9A-F]{8,32}:[0-9A-F]{4} (?P<state>[0-9A-F]{2}) "
    rb"\S+ \S+ \S+ +(?P<uid>\d{1,10}) +\d+ (?P<inode>\d{1,19}) "
)


class AmbiguousSocketError(Exception):
    """More than one socket could have sent the packet."""


def ask(note: Note) -> Socket | None:
    """Return the socket of a flow that is neither TCP nor UDP, in the thread's namespace; None if there is none.

    Raises AmbiguousSocketError if several raw sockets of the protocol could have sent it; OSError.
    """
    version = "" if len(note.local) == 4 else "6"
    if note.proto in ECHO:
        for port, found in rows(_read(f"icmp{version}")):
            if port == note.local_port:
                return found
    raw = {found for port, found in rows(_read(f"raw{version}")) if port == note.proto}
    if len(raw) > 1:
        raise AmbiguousSocketError
    return next(iter(raw), None)


def rows(table: bytes) -> Iterator[tuple[int, Socket]]:
    """Yield the local port and the socket of each valid line of a table."""
    for line in table.split(b"\n"):
        if match := _LINE.match(line):
            inode, uid = int(match["inode"]), int(match["uid"])
            yield int(match["port"], 16), Socket(inode, uid, int(match["state"], 16))


def _read(name: str) -> bytes:
    try:
        with (_HERE / name).open("rb") as file:
            return file.read(MAX_TABLE)
    except FileNotFoundError:  # no IPv6, no ping sockets in this kernel
        return b""
