"""A quarantined agent receives nothing either, not even a stream that needs no packet of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.store.database.database import open_database, writing
from egress.store.policy import agents
from egress.store.policy.audit import Actor
from tests.lab.gateway import HOSTS, guarded
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT = 9005
SOURCE = """
import socket, sys, time
source = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
source.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
_, caller = source.recvfrom(64)
for number in range(2000):
    try:
        source.sendto(number.to_bytes(4), caller)
    except OSError:
        pass
    time.sleep(0.01)
"""
LISTENER = """
import socket, sys, time
end = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
end.connect((sys.argv[1], int(sys.argv[2])))
end.send(b"go on, I shall say nothing more")
end.settimeout(20)
while True:
    end.recv(64)
    print(time.time(), flush=True)
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded(workers=1, policy="rules:\n  - {action: allow, destination: any}\n") as running:
        yield running


@pytest.mark.parametrize("host", HOSTS, ids=["IPv4", "IPv6"])
def test_a_stream_towards_the_agent_ends(stage: Stage, host: str) -> None:
    source = stage.lab.popen(stage.outside, [sys.executable, "-c", SOURCE, host, str(PORT)])
    assert source.stdout is not None
    source.stdout.readline()
    heard = stage.directory / "heard"
    command = ["sh", "-c", f'exec "$0" -u -c "$1" {host} {PORT} > {heard}', sys.executable, LISTENER]
    stage.lab.popen(stage.agent, command)
    eventually(lambda: heard.exists() and heard.read_text().count("\n") > 50, "it streams, settled")
    engine = open_database(stage.config.database_url)
    began = time.time()
    with writing(engine) as connection:
        agents.update_agent(connection, Actor("uid:0 (root)"), "rome-7", quarantined=True, ts=began)
    time.sleep(2.5)
    last = float(heard.read_text().splitlines()[-1])
    engine.dispose()
    assert last - began < 1.5
