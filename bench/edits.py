"""Measure when an edit is in force: from the commit in another process to the first connection that is judged by it.

A client in the sandbox connects every few milliseconds; an edit opens its port, the next one closes it. Meanwhile a
stream of datagrams passes, and each must arrive: an edit loses no packet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.stage import SERVER, Stage
from egress.model import Action, Rule
from egress.store.database.database import open_database, writing
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.lab.net import eventually

EDITS = 25  # openings, and as many closings
PORT, STREAM = 9000, 9001
POLICY = f"rules:\n  - {{action: allow, destination: any, protocol: udp, ports: {STREAM}}}\n"
OPENING = Rule("opening", Action.ACCEPT, protocol="tcp", ports=((PORT, PORT),))
WHO = Actor("uid:0 (root)")
SENDER = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[3])):
    out.sendto(number.to_bytes(8), (sys.argv[1], int(sys.argv[2])))
    time.sleep(0.001)
"""
SINK = """
import socket, sys
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
sink.bind(("", int(sys.argv[1])))
sink.settimeout(3)
seen = set()
print("ready", flush=True)
while True:
    try:
        seen.add(sink.recv(64))
    except TimeoutError:
        if seen:
            break
print(len(seen), flush=True)
"""


def propagation(rules: int) -> dict[str, float]:
    """Measure milliseconds from commit to effect (median, worst), and lost datagrams, beside `rules` other rules."""
    with _guarded(rules) as (stage, knocks):
        sink = stage.lab.popen(stage.outside, [sys.executable, "-c", SINK, str(STREAM)])
        assert sink.stdout is not None
        sink.stdout.readline()
        number = 4000
        sending = [sys.executable, "-c", SENDER, SERVER[0], str(STREAM), str(number)]
        sender = stage.lab.popen(stage.agent, sending)
        spent = []
        engine = open_database(stage.config.database_url)
        for edit in range(2 * EDITS):
            began = time.time()
            with writing(engine) as connection:
                change = Edit(connection, WHO, began)
                if edit % 2:
                    change.remove([OPENING.id])
                else:
                    change.add([OPENING])
            spent.append((_turned(knocks, edit + 2) - began) * 1000)
        engine.dispose()
        sender.wait(60)
        arrived = int(sink.stdout.readline())
    spent.sort()
    return {"median": spent[len(spent) // 2], "worst": spent[-1], f"lost of {number} datagrams": number - arrived}


@contextmanager
def _guarded(rules: int) -> Iterator[tuple[Stage, Path]]:
    """Start a gateway with `rules` rules, and a client that connects; yield the stage and the file of its outcomes."""
    with Stage(POLICY) as stage:
        stage.attach("bench")
        engine = open_database(stage.config.database_url)
        many = [Rule(f"m{each}", Action.ACCEPT, destination=f"h{each}.example.org") for each in range(rules)]
        with writing(engine) as connection:
            Edit(connection, WHO, time.time()).add(many)
        engine.dispose()
        stage.start("--workers", "2")
        stage.lab.popen(stage.outside, [sys.executable, "-m", "http.server", str(PORT)])
        stage.listening(PORT)
        knocks = stage.directory / "knocks"
        stage.lab.popen(stage.agent, [sys.executable, "-m", "tests.lab.knock", str(knocks), SERVER[0], str(PORT)])
        _turned(knocks, 1)
        yield stage, knocks


def _turned(knocks: Path, times: int) -> float:
    """Wait until the client has noted `times` outcomes (a line each time it changes).

    Returns the time of the last of them, in seconds since the epoch.
    """
    eventually(lambda: knocks.exists() and knocks.read_text().count("\n") >= times, "the edit has an effect", 30.0)
    return float(knocks.read_text().splitlines()[times - 1].split()[1])
