"""Many sandboxes at once, no packet before a sandbox is guarded, and a gateway that is killed while it opens them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.sandboxes import measure
from demo.stage import Stage
from egress.control import Client
from egress.errors import EgressError
from tests.lab.net import Lab, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

AT_ONCE = 20
GATEWAY_CPU = 0.25  # seconds a sandbox, to open it and to guard it; ten times what it takes
BEFORE_AND_AFTER = """
import subprocess, sys
from pathlib import Path
from egress.config import Config
from egress.gateway.sandbox import sandbox
config = Config(run_dir=Path(sys.argv[2]) / "run", state_dir=Path(sys.argv[2]) / "state")
made = sandbox.create(sys.argv[1], 7, config)
def reached(host):
    ping = ["ip", "netns", "exec", made.netns, "ping", "-c1", "-W1", host]
    return subprocess.run(ping, capture_output=True, check=False).returncode == 0
hosts = made.gateway4, made.gateway6
before = [reached(host) for host in hosts]
sandbox.connect(made)
print(before, [reached(host) for host in hosts])
sandbox.destroy(made, config)
"""
UNGUARDED = """
import json, pathlib
from egress.gateway.kernel import guard
up = {path.parent.name for path in pathlib.Path("/sys/class/net").glob("egr*/flags") if int(path.read_text(), 16) & 1}
print(json.dumps(sorted(up - guard.state().interfaces)))
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as built:
        built.start("--workers", "2")
        yield built


def test_many_open_at_once_and_nothing_gets_out_or_stays() -> None:
    found = measure(AT_ONCE)
    assert found["opened"] == found["interfaces"] == AT_ONCE
    assert found["canaries that came out"] == 0
    assert found["interfaces left"] == 0
    assert found["CPU seconds of gateway"] < GATEWAY_CPU * AT_ONCE


def test_no_packet_passes_before_a_sandbox_is_connected(tmp_path: Path) -> None:
    with Lab() as lab:
        host = lab.ns("host")
        assert lab.python(host, BEFORE_AND_AFTER, f"b{os.getpid()}", str(tmp_path)) == ("[False, False] [True, True]\n")


def test_a_gateway_that_is_killed_while_it_opens_leaves_nothing_open(stage: Stage) -> None:
    control, names = stage.control, [f"k{os.getpid()}-{number}" for number in range(8)]

    def ask(name: str) -> None:
        with contextlib.suppress(EgressError), Client(control) as client:
            client.call("sandbox.open", agent=name, mode="enforce", default="accept")

    callers = [threading.Thread(target=ask, args=(name,)) for name in names]
    for caller in callers:
        caller.start()
    eventually(lambda: "egr0001" in _links(stage), "two sandboxes are being opened", 30.0)
    stage.stop(signal.SIGKILL)
    for caller in callers:
        caller.join()
    assert json.loads(stage.lab.python(stage.gateway, UNGUARDED)) == []
    stage.start("--workers", "2")
    assert "egr" not in _links(stage)
    assert not [path for name in names for path in Path("/run/netns").glob(f"egress-{name}")]
    assert not [path for name in names for path in Path("/etc/netns").glob(f"egress-{name}")]
    assert not list((stage.config.run_dir / "sandboxes").glob("*.json"))


def _links(stage: Stage) -> str:
    return stage.lab.run(stage.gateway, ["ip", "-br", "link"]).stdout
