"""A refusal that the kernel keeps must not outlive its reason, and a finding must outlive any change of rules."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from tests.lab.gateway import HOSTS, POLICY, Peer, Witness, call, findings, guarded, log, serve, status
from tests.lab.net import PYTHON, ROOT, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

UDP, TCP = 7000, 8080
DENY = "  - {id: no-datagrams, action: deny, protocol: udp}\n"
MORE = "  - {id: more, action: allow, destination: any, protocol: tcp, ports: 9000}\n"
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture
def stage() -> Iterator[Stage]:
    with guarded() as running:
        for port in (UDP, TCP):
            serve(running, port)
        yield running


def reload(stage: Stage, policy: str, version: int) -> None:
    stage.policy_file.write_text(policy)
    assert stage.daemon is not None
    stage.daemon.send_signal(signal.SIGHUP)
    eventually(lambda: f"policy version {version}" in log(stage).splitlines()[-1], f"version {version} is in force")


def unqueued(stage: Stage) -> int:
    return int(status(stage)["rules"]["unqueued"])


@FAMILIES
def test_datagrams_denied_for_a_while_pass_again(stage: Stage, family: int) -> None:
    peer = Peer(stage, stage.agent, "udp", HOSTS[family], str(UDP))
    peer.hears("ready")
    peer.send("one")
    peer.hears("got one")
    reload(stage, POLICY + DENY, 2)
    for number in (1, 2, 3):
        peer.send("two")
        peer.hears("E", count=number)
    assert unqueued(stage) == 2  # the kernel refuses by itself: the connection is marked
    reload(stage, POLICY, 3)
    peer.send("three")
    peer.hears("got three")
    assert "Traceback" not in log(stage)


@FAMILIES
def test_an_agent_attached_again_with_another_default_starts_afresh(stage: Stage, family: int) -> None:
    peer = Peer(stage, stage.agent, "udp", HOSTS[family], str(UDP))
    peer.hears("ready")
    peer.send("one")
    peer.hears("got one")
    reload(stage, "rules: []\n", 2)
    peer.send("two")
    peer.hears("E")
    stage.egress("agent", "rm", "rome-7")
    eventually(lambda: not status(stage)["agents"], "it is gone")
    stage.attach("rome-7", "--default", "allow")
    eventually(lambda: bool(status(stage)["agents"]), "it is attached again")
    peer.send("three")
    peer.hears("got three")


@FAMILIES
def test_a_finding_stays_whatever_the_rules_become(stage: Stage, family: int) -> None:
    """The agent ignores our reset, so its kernel sends the refused segment again and again."""
    tool = ("iptables", "ip6tables")[family]
    ignore = [tool, "-A", "INPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"]
    stage.lab.run(stage.agent, ignore, check=True)
    with Witness(stage) as witness:
        caller = call(stage, HOSTS[family], TCP)
        caller.hears("open")
        caller.send("hello")
        caller.hears("got hello")
        second = call(stage, HOSTS[family], TCP)
        second.hears("open")
        second.send("SSH-2.0-OpenSSH_9.9")
        eventually(lambda: unqueued(stage) >= 1, "it is sent again and refused in the kernel")
        for version, policy in ((2, POLICY + MORE), (3, POLICY)):
            reload(stage, policy, version)
            packets = status(stage)["workers"][0]["counters"]["packets"]
            eventually(lambda: status(stage)["workers"][0]["counters"]["packets"] > packets, "the engine is asked", 15)  # noqa: B023
            before = unqueued(stage)
            eventually(lambda: unqueued(stage) > before, "and its answer is kept again", 15)  # noqa: B023
        caller.send("still here")
        caller.hears("got still here")
        assert not any(b"SSH-2.0" in raw for raw in witness.packets())
    assert stage.stop() == 0
    assert [each.signature for each in findings(stage)] == ["ssh.unusual-port"]


SANDBOXED = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4444)); s.connect((sys.argv[1], int(sys.argv[2]))); s.settimeout(3)
sys.stdout.write(s.getsockname()[0] + "\\n"); sys.stdout.flush()
for line in sys.stdin:
    try:
        s.send(line.strip().encode()); word = s.recv(99).decode()
    except OSError as error:
        word = type(error).__name__
    sys.stdout.write(word + "\\n"); sys.stdout.flush()
"""


class Sandboxed:
    """A datagram socket in a sandbox of its own. Host, gateway and sandbox share `holder`'s mount namespace."""

    def __init__(self, stage: Stage, holder: int, *words: str) -> None:
        self.process = stage.lab.popen(stage.gateway, inside(stage, holder, "run", *words))
        self.address = self.hears()

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def asks(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.hears()

    def end(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0


def inside(stage: Stage, holder: int, verb: str, *words: str) -> list[str]:
    command = [PYTHON, "-m", "egress", verb, "--config", str(stage.config_file), *words]
    return ["nsenter", "-t", str(holder), "-m", f"--wd={ROOT}", *command]


@FAMILIES
def test_a_sandbox_inherits_nothing_from_an_earlier_one(family: int) -> None:
    """Two sandboxes use the same addresses and ports in turn; the second may send what was refused to the first."""
    with Stage("rules: []\n") as stage:
        serve(stage, UDP)
        holder = stage.lab.popen(stage.gateway, ["sleep", "infinity"]).pid
        gateway = stage.lab.popen(stage.gateway, inside(stage, holder, "gateway", "--workers", "1"))
        eventually(lambda: stage.status() is not None, "the gateway is up")

        def reload(policy: str, version: int) -> None:
            stage.policy_file.write_text(policy)
            gateway.send_signal(signal.SIGHUP)
            eventually(lambda: status(stage)["policy_version"] == version, "it is in force")

        try:
            words = ("--default", "allow", "--", PYTHON, "-u", "-c", SANDBOXED, HOSTS[family], str(UDP))
            first = Sandboxed(stage, holder, *words)
            assert first.asks("one") == "one"
            reload("rules:\n" + DENY, 1)
            assert [first.asks("two"), first.asks("three")] != ["two", "three"]
            first.end()
            reload("rules: []\n", 2)
            second = Sandboxed(stage, holder, *words)
            assert second.address == first.address
            assert second.asks("four") == "four"
            second.end()
        finally:  # its end also ends its sandboxes
            gateway.send_signal(signal.SIGTERM)
            said = gateway.communicate(timeout=20)[1]
        assert "ERROR" not in said and "keep their marks" not in said, said
