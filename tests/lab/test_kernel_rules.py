"""The rules on the real kernel: agent – gateway – outside, with `marker.py` answering the queues."""

from __future__ import annotations

import subprocess
import threading
import time
from ast import literal_eval
from collections.abc import Iterator

import pytest

from tests.lab.net import PYTHON, ROOT, Lab, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

RULES = """
import sys
from egress.config import Config
from egress.gateway.kernel import guard
from egress.gateway.kernel.attachment import Attachment
networks = ("10.99.1.0/24", "fd99:1::/64")
attachments = [Attachment("a", "egr0001", networks, 7400, 7401, "masquerade" in sys.argv)]
kernel = guard.Guard(Config(fail_open="open" in sys.argv))
action = sys.argv[1]
if action in ("install", "block"):
    getattr(kernel, action)(attachments)
    sys.stdout.write(repr((kernel.owned, kernel.installed())))
elif action == "remove":
    kernel.remove()
else:
    sys.stdout.write(repr(guard.counters() if action == "counters" else tuple(map(sorted, guard.state()))))
"""

REFUSED = """
import os, tempfile
from pathlib import Path
from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import guard
from egress.gateway.supervisor.roster import Roster, RosterEntry
from egress.gateway.supervisor.rulekeeper import RuleKeeper
from egress.model import Agent
directory = tempfile.TemporaryDirectory()
Path(directory.name).chmod(0o755)
config = Config(run_dir=Path(directory.name), state_dir=Path(directory.name))
agents = [RosterEntry(Agent(name, (network,)), name, 1, masquerade=False)
          for name, network in (("one", "10.1.0.2/32"), ("two", "10.1.0.3/32"))]
roster = Roster(1)
keeper = RuleKeeper(config, roster)
roster.replace(agents[:1])
keeper.install()
roster.replace(agents)
os.seteuid(65534)  # without its capabilities the kernel refuses the change
try:
    keeper.install()
except EgressError as error:
    refused = "not permitted" in str(error)
os.seteuid(0)
before = keeper.installed(), sorted(guard.state().interfaces)
keeper.keep()
print((refused, *before, keeper.installed(), sorted(guard.state().interfaces), keeper.changes))
"""

SERVER = """
import socket, sys, threading
def serve(connection):
    try:
        while data := connection.recv(65536):
            sys.stdout.write("got " + data.decode() + "\\n"); sys.stdout.flush()
            connection.sendall(b"re:" + data)
    except OSError as error:
        sys.stdout.write(f"error {error.strerror}\\n"); sys.stdout.flush()
def echo(datagrams):
    while True:
        data, peer = datagrams.recvfrom(65536)
        sys.stdout.write("got " + data.decode() + "\\n"); sys.stdout.flush()
        datagrams.sendto(b"re:" + data, peer)
listener = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagrams.bind(("::", 80))
threading.Thread(target=echo, args=(datagrams,), daemon=True).start()
sys.stdout.write("ready\\n"); sys.stdout.flush()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

CLIENT = """
import socket, sys, time
kind, host, port, *words = sys.argv[1:]
start = time.monotonic()
try:
    if kind == "udp":
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(0, 11, 1) if ":" not in host else s.setsockopt(41, 25, 1)  # IP_RECVERR, IPV6_RECVERR
        s.connect((host, int(port)))
    else:
        s = socket.create_connection((host, int(port)), timeout=4)
    s.settimeout(0.7)
    for word in words:
        s.sendall(word.encode())
        sys.stdout.write(s.recv(65536).decode() + "\\n")
except OSError as error:
    sys.stdout.write(f"{type(error).__name__} {error.strerror}\\n")
sys.stdout.write("fast" if time.monotonic() - start < 1 else "slow")
"""

OUTSIDE = {4: "10.99.2.2", 6: "fd99:2::2"}
GATEWAY = {4: "10.99.1.1", 6: "fd99:1::1"}


class Reader:
    """Lines of a background process, collected as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()
        eventually(lambda: "ready" in self.lines or process.poll() is not None, "a background process starts")
        assert process.poll() is None, process.stderr.read() if process.stderr else ""

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())


class Net:
    """agent (net 1) – gateway – outside (net 2), rules installed, marker and server running."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self.lab = lab
        self.agent, self.gateway, self.outside = lab.ns("agent"), lab.ns("gateway"), lab.ns("outside")
        lab.veth(self.agent, "eth0", self.gateway, "egr0001", 1)
        lab.veth(self.outside, "eth0", self.gateway, "up0", 2)
        lab.route(self.agent, via=1)
        lab.route(self.outside, via=2)
        lab.forwarding(self.gateway)
        self.rules("install", *options)
        self.server = Reader(lab.popen(self.outside, [PYTHON, "-c", SERVER]))
        self.marker = Reader(lab.popen(self.gateway, [PYTHON, str(ROOT / "tests/lab/marker.py"), "7400", "7401"]))

    def rules(self, *argv: str) -> str:
        return self.lab.python(self.gateway, RULES, *argv)

    def client(self, kind: str, host: str, port: int, *words: str) -> list[str]:
        return self.lab.python(self.agent, CLIENT, kind, host, str(port), *words).splitlines()

    def queued(self, text: str = "") -> list[str]:
        time.sleep(0.1)  # the marker prints it before it answers the kernel; the reading thread may be late
        return [line for line in self.marker.lines if text in line and line != "ready"]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Lab() as lab:
        yield Net(lab)


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_syn_is_reset_at_once(net: Net, family: int) -> None:
    assert net.client("tcp", OUTSIDE[family], 9) == ["ConnectionRefusedError Connection refused", "fast"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_reset_that_reflects_marks_is_not_refused_itself(net: Net, family: int) -> None:
    key = {4: "net.ipv4.fwmark_reflect", 6: "net.ipv6.fwmark_reflect"}[family]
    net.lab.run(net.gateway, ["sysctl", "-qw", f"{key}=1"], check=True)
    assert net.client("tcp", OUTSIDE[family], 9) == ["ConnectionRefusedError Connection refused", "fast"]
    net.lab.run(net.gateway, ["sysctl", "-qw", f"{key}=0"], check=True)


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_segment_resets_the_agent_and_never_reaches_the_server(net: Net, family: int) -> None:
    net.server.lines.clear()
    word = f"REFUSE{family}"
    answer = net.client("tcp", OUTSIDE[family], 80, f"hello{family}", word)
    assert answer == [f"re:hello{family}", "ConnectionResetError Connection reset by peer", "fast"]
    assert f"got hello{family}" in net.server.lines
    assert not any(word in line for line in net.server.lines)


@pytest.mark.parametrize("family", [4, 6])
def test_udp_is_refused_with_prohibited_then_in_the_kernel(net: Net, family: int) -> None:
    net.marker.lines.clear()
    net.server.lines.clear()
    before = literal_eval(net.rules("counters"))
    code = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect((sys.argv[1],80)); s.settimeout(2)\n"
        "for w in (b'one', b'REFUSE', b'more', b'again'):\n"
        "    try:\n"
        "        s.send(w); sys.stdout.write(s.recv(99).decode()+' ')\n"
        "    except OSError as e: sys.stdout.write(e.strerror.replace(' ','_')+' ')\n"
    )
    # Linux turns "administratively prohibited" into EHOSTUNREACH (v4) and EACCES (v6) on a connected socket.
    refusal = {4: "No_route_to_host", 6: "Permission_denied"}[family]
    assert net.lab.python(net.agent, code, OUTSIDE[family]).split() == ["re:one", refusal, refusal, refusal]
    assert net.server.lines == ["got one"]
    assert len(net.queued(f"7400 v{family} p17")) == 3  # one, its reply, REFUSE; the later ones never reach the queue
    after = literal_eval(net.rules("counters"))
    assert after["unqueued"] - before["unqueued"] == 2
    assert after["rejected"] - before["rejected"] == 3


@pytest.mark.parametrize("family", [4, 6])
def test_dropped_is_silent(net: Net, family: int) -> None:
    answer = net.client("udp", OUTSIDE[family], 80, "DROP")
    assert answer[0] == "TimeoutError None"


@pytest.mark.parametrize("family", [4, 6])
def test_icmp_echo_is_queued_and_refused(net: Net, family: int) -> None:
    net.marker.lines.clear()
    passed = net.lab.run(net.agent, ["ping", "-c2", "-i0.2", "-W2", OUTSIDE[family]])
    assert passed.returncode == 0, passed.stdout
    assert len(net.queued(f"p{1 if family == 4 else 58}")) == 4
    pattern = b"REFUSE".hex()
    refused = net.lab.run(net.agent, ["ping", "-c1", "-W2", "-s64", "-p", pattern, OUTSIDE[family]])
    assert refused.returncode == 1
    assert {4: "Packet filtered", 6: "Administratively prohibited"}[family] in refused.stdout


@pytest.mark.parametrize("family", [4, 6])
def test_a_settled_flow_uses_the_settled_queue_and_may_be_recalled(net: Net, family: int) -> None:
    net.marker.lines.clear()
    words = ("SETTLE", "second", "RECHECK", "fourth")
    assert net.client("tcp", OUTSIDE[family], 80, *words)[:4] == [f"re:{word}" for word in words]
    settled = net.queued("7401 ")
    assert settled and len(settled) < len(net.queued())
    lines = net.queued()
    recheck = next(index for index, line in enumerate(lines) if line.endswith("recheck"))
    assert lines[recheck].startswith("7401 ")
    assert all(line.startswith("7400 ") for line in lines[recheck + 1 :])


@pytest.mark.parametrize("family", [4, 6])
def test_the_server_is_reset_at_its_next_packet(net: Net, family: int) -> None:
    code = (
        "import socket,sys,time\n"
        "l=socket.create_server((sys.argv[1],81),family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush()\n"
        "c=l.accept()[0]; time.sleep(0.4)\n"
        "for _ in range(3):\n"
        "    try: c.sendall(b'x'); time.sleep(0.2); c.recv(1); sys.stdout.write('alive\\n')\n"
        "    except OSError as e: sys.stdout.write(e.strerror+'\\n'); break\n"
        "sys.stdout.flush()\n"
    )
    server = Reader(net.lab.popen(net.outside, [PYTHON, "-c", code, OUTSIDE[family]]))
    net.client("tcp", OUTSIDE[family], 81, "REFUSE")
    eventually(lambda: len(server.lines) > 1, "the server sends its packet")
    assert server.lines == ["ready", "Connection reset by peer"]


@pytest.mark.parametrize("family", [4, 6])
def test_packets_to_the_gateway_host_are_queued_and_refused(net: Net, family: int) -> None:
    net.marker.lines.clear()
    assert net.lab.run(net.agent, ["ping", "-c1", "-W2", GATEWAY[family]]).returncode == 0
    assert net.queued(f"7400 v{family} p{1 if family == 4 else 58} h1")  # hook 1 is INPUT
    assert net.client("tcp", GATEWAY[family], 9) == ["ConnectionRefusedError Connection refused", "fast"]
    assert len(net.queued("p6 h1 ")) == 1 and net.queued("p6 h1 m2 refused")
    assert not net.queued("p6 h3")  # the reset for it does not count as an answer of the host (hook 3 is OUTPUT)


def test_a_mark_set_by_the_agent_does_not_reach_the_rules(net: Net) -> None:
    code = (
        "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, 36, 0x01000000)\n"  # SO_MARK
        "s.connect(('10.99.2.2',80)); s.settimeout(2)\n"
        "for w in (b'a',b'b'): s.send(w); s.recv(9)\n"
    )
    net.marker.lines.clear()
    net.lab.python(net.agent, code)
    assert len(net.queued("7400 v4 p17")) == 4
    assert all(" m0 " in line + " " for line in net.queued())


@pytest.mark.parametrize(
    "rule",
    [
        ["filter", "FORWARD", "-j", "ACCEPT"],
        ["mangle", "FORWARD", "-j", "ACCEPT"],
        ["mangle", "FORWARD", "-j", "MARK", "--set-xmark", "0x0/0xffff0000"],  # as Calico's, by default
        ["filter", "FORWARD", "-j", "MARK", "--set-xmark", "0x1000000/0x1000000"],
        ["raw", "PREROUTING", "-j", "MARK", "--set-xmark", "0x2000000/0xf000000"],
        ["mangle", "PREROUTING", "-j", "MARK", "--set-xmark", "0x0/0xffffffff"],
    ],
)
@pytest.mark.parametrize("family", [4, 6])
def test_rules_of_others_before_ours_neither_open_nor_cut(net: Net, rule: list[str], family: int) -> None:
    table, chain, *rest = rule
    words = [{4: "iptables", 6: "ip6tables"}[family], "-t", table]
    net.lab.run(net.gateway, [*words, "-I", chain, "1", *rest], check=True)
    try:
        net.server.lines.clear()
        assert net.client("tcp", OUTSIDE[family], 9) == ["ConnectionRefusedError Connection refused", "fast"]
        answer = net.client("tcp", OUTSIDE[family], 80, "SETTLE", "second", "REFUSE")
        assert answer == ["re:SETTLE", "re:second", "ConnectionResetError Connection reset by peer", "fast"]
        assert [line for line in net.server.lines if line[:3] == "got"] == ["got SETTLE", "got second"]
    finally:
        net.lab.run(net.gateway, [*words, "-D", chain, *rest], check=True)


FLUSHES = ["iptables", "ip6tables"]
OTHER = """
import sys
from egress.gateway.kernel import nftables as nft
kernel = nft.Nftables()
for message in (nft.no_rules("egress"), nft.no_elements("egress", "out"), nft.no_table("egress")):
    try:
        kernel.apply([message])
        sys.stdout.write("done ")
    except OSError as error:
        sys.stdout.write(f"{error.strerror.replace(' ', '_')} ")
"""


def test_flushing_every_table_of_iptables_changes_nothing(net: Net) -> None:
    for tool in FLUSHES:
        for table in ("filter", "mangle", "nat", "raw"):
            net.lab.run(net.gateway, [tool, "-t", table, "-F"], check=True)
            net.lab.run(net.gateway, [tool, "-t", table, "-X"], check=True)
    for family in (4, 6):
        assert net.client("tcp", OUTSIDE[family], 9) == ["ConnectionRefusedError Connection refused", "fast"]


def test_a_table_with_an_owner_cannot_be_changed_by_others_and_outlives_it(net: Net) -> None:
    """`nft flush ruleset` deletes tables like this; nft itself leaves out those of other owners."""
    code = RULES + (
        "sys.stdout.flush()\n"
        "import subprocess; subprocess.run([sys.executable, '-c', sys.argv[2]], check=True)\n"
        "sys.stdout.write(repr(kernel.installed()))"
    )
    shown = net.lab.python(net.gateway, code, "install", OTHER)
    assert shown == "(True, True)" + 3 * "Operation_not_permitted " + "True"
    assert net.rules("state") == "(['egr0001'], [7400, 7401], [])"
    net.rules("install")  # the next process takes it over


def test_without_an_owner_damage_is_seen_and_repaired(net: Net) -> None:
    code = (
        """
import subprocess, sys
from egress.gateway.kernel import nftables as nft
from tests.lab.test_kernel_rules import OTHER
"""
        + RULES.replace("action = sys.argv[1]", "kernel.remove(); kernel.owned = False; action = sys.argv[1]")
        + """
for message in (nft.no_rules("egress"), nft.no_elements("egress", "in"), nft.no_chain("egress", "in-7400"),
                nft.no_table("egress")):
    other = nft.Nftables()
    try:
        other.apply([nft.no_rules("egress"), nft.no_elements("egress", "in"), message])
    finally:
        other.close()
    assert not kernel.installed()
    kernel.install(attachments)
    assert kernel.installed() and not kernel.owned
kernel.block(attachments)
for family in ("-4", "-6"):
    assert kernel.installed()
    subprocess.run(["ip", family, "rule", "delete", "iif", "egr0001"], check=True)
    assert not kernel.installed()
    kernel.block(attachments)
kernel.remove()
"""
    )
    assert net.lab.python(net.gateway, code, "install") == "(False, True)"
    net.rules("install")


def test_nobody_listening_closes_and_fail_open_opens() -> None:
    with Lab() as lab:
        net = Net(lab, "masquerade")
        lab.run(net.outside, ["ip", "route", "delete", "default"], check=True)  # only masquerading brings replies back
        assert net.client("udp", OUTSIDE[4], 80, "hi")[0] == "re:hi"
        lab.end_last()
        assert net.client("udp", OUTSIDE[4], 80, "hi")[0].startswith("TimeoutError")
        net.rules("install", "open", "masquerade")
        assert net.client("udp", OUTSIDE[4], 80, "hi")[0] == "re:hi"
        net.rules("block", "masquerade")
        assert net.client("tcp", OUTSIDE[4], 80) == ["ConnectionRefusedError Connection refused", "fast"]
        assert net.client("tcp", GATEWAY[6], 80) == ["ConnectionRefusedError Connection refused", "fast"]


def test_a_change_that_the_kernel_refused_is_made_later() -> None:
    """Otherwise an agent that came in it would stay unguarded: nothing else differs from the roster."""
    with Lab() as lab:
        found = literal_eval(lab.python(lab.ns("gateway"), REFUSED))
    assert found == (True, False, ["one"], True, ["one", "two"], 0)
