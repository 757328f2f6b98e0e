"""Runs the Finder of the attribution process without a gateway: JSON notes on stdin, process records on stdout.

It runs in the namespace that a gateway would be in. A note's `interface` is a name; its time is now, or `late` seconds
ago.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

from egress.gateway.attribution.finder import Finder
from egress.gateway.pipe.note import Note
from egress.records.eve import to_eve
from egress.records.shape import ProcessRecord


def note(asked: dict[str, Any], number: int) -> Note:
    family = socket.AF_INET6 if ":" in asked["local"] else socket.AF_INET
    return Note(
        flow_id=f"{number:016x}",
        agent=asked.get("agent", "rome"),
        time=time.time() - asked.get("late", 0),
        interface=socket.if_nametoindex(asked["interface"]),
        proto=asked["proto"],
        inbound=asked.get("inbound", False),
        local=socket.inet_pton(family, asked["local"]),
        local_port=asked["port"],
        remote=socket.inet_pton(family, asked["remote"]),
        remote_port=asked.get("to", 0),
        waits=False,
    )


def found(finder: Finder, asked: dict[str, Any], number: int) -> ProcessRecord:
    record = finder.take(note(asked, number), time.time())
    while record is None:
        record = next(iter(list(finder.work(time.monotonic() + 1))), None)
    return record


def main() -> None:
    finder = Finder()
    for number, line in enumerate(sys.stdin):
        began = time.monotonic()
        document = to_eve(found(finder, json.loads(line), number))
        sys.stdout.write(json.dumps({**document, "seconds": time.monotonic() - began}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
