"""Packets from the gateway host to an agent, on the real kernel: its answers are queued, other packets are not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab.net import PYTHON, Lab, needs_root
from tests.lab.test_kernel_rules import GATEWAY, SERVER, Net, Reader

pytestmark = [pytest.mark.lab, needs_root]

AGENT = {4: "10.99.1.2", 6: "fd99:1::2"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
TICKS = """
import socket, sys, time
listener = socket.create_server(("::", 82), family=socket.AF_INET6, dualstack_ipv6=True)
sys.stdout.write("ready\\n"); sys.stdout.flush()
while True:
    with listener.accept()[0] as connection:
        try:
            while True:
                connection.sendall(b"tick\\n"); time.sleep(0.1)
        except OSError as error:
            sys.stdout.write(error.strerror + "\\n"); sys.stdout.flush()
"""
HEARS = """
import socket, sys
with socket.create_connection((sys.argv[1], 82)) as connection:
    for line in connection.makefile():
        sys.stdout.write("ready\\n"); sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Lab() as lab:
        built = Net(lab)
        Reader(lab.popen(built.gateway, [PYTHON, "-c", SERVER]))
        Reader(lab.popen(built.agent, [PYTHON, "-c", SERVER]))
        yield built


@FAMILIES
@pytest.mark.parametrize(("kind", "proto"), [("tcp", 6), ("udp", 17)])
def test_answers_are_queued(net: Net, family: int, kind: str, proto: int) -> None:
    net.marker.lines.clear()
    assert net.client(kind, GATEWAY[family], 80, "one", "two") == ["re:one", "re:two", "fast"]
    assert net.queued(f"7400 v{family} p{proto} h1") and len(net.queued(f"7400 v{family} p{proto} h3")) >= 2


@FAMILIES
def test_answers_of_a_settled_connection_are_not(net: Net, family: int) -> None:
    net.marker.lines.clear()
    words = ("SETTLE", "second", "third", "RECHECK", "fifth")
    assert net.client("tcp", GATEWAY[family], 80, *words)[:5] == [f"re:{word}" for word in words]
    lines = net.queued()
    settled = next(index for index, line in enumerate(lines) if line.endswith("settled"))
    recheck = next(index for index, line in enumerate(lines) if line.endswith("recheck"))
    assert not any(" h3 " in line for line in lines[settled + 2 : recheck])  # except for the answer that repeats it
    assert any(" h3 " in line for line in lines[recheck + 1 :])


@FAMILIES
def test_the_hosts_own_traffic_is_not_and_its_link_is_kept_up(net: Net, family: int) -> None:
    net.marker.lines.clear()
    net.lab.run(net.gateway, ["ip", "neigh", "flush", "dev", "egr0001"], check=True)
    assert net.lab.run(net.gateway, ["ping", "-c1", "-W2", AGENT[family]]).returncode == 0
    code = "import socket,sys; s=socket.create_connection((sys.argv[1],80)); s.send(b'hi'); s.recv(9)"
    net.lab.python(net.gateway, code, AGENT[family])
    assert net.queued(" h1 ") and not net.queued(" h3 ")  # the agent's packets to it are queued


@FAMILIES
def test_a_closed_port_of_the_host_is_told_by_the_host(net: Net, family: int) -> None:
    assert net.client("tcp", GATEWAY[family], 77) == ["ConnectionRefusedError Connection refused", "fast"]
    assert net.client("udp", GATEWAY[family], 77, "hi") == ["ConnectionRefusedError Connection refused", "fast"]


@FAMILIES
def test_other_bits_of_an_answers_mark_stay(net: Net, family: int) -> None:
    code = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET, 36, 0x01000007); s.bind((sys.argv[1],83))\n"  # SO_MARK
        "sys.stdout.write('ready\\n'); sys.stdout.flush()\n"
        "while True: d,p=s.recvfrom(99); s.sendto(d,p)\n"
    )
    Reader(net.lab.popen(net.gateway, [PYTHON, "-c", code, GATEWAY[family]]))
    tool = {4: "iptables", 6: "ip6tables"}[family]
    counted = ["-t", "mangle", "POSTROUTING", "-o", "egr0001", "-m", "mark", "--mark"]
    net.lab.run(net.gateway, [tool, *counted[:2], "-A", *counted[2:], "0x7/0xff"], check=True)
    net.marker.lines.clear()
    assert net.client("udp", GATEWAY[family], 83, "one", "two")[:2] == ["one", "two"]
    shown = net.lab.run(net.gateway, [tool, "-t", "mangle", "-vnxL", "POSTROUTING"], check=True).stdout
    assert int(next(line for line in shown.splitlines() if "0x7/0xff" in line).split()[0]) == 2
    assert len(net.queued(" p17 h3 m0")) == 2  # ours were zeroed before the queue


@FAMILIES
def test_blocked_the_host_answers_no_more(net: Net, family: int) -> None:
    """Packets of a living connection are dropped in silence, so that it goes on after a short stop."""
    server = Reader(net.lab.popen(net.gateway, [PYTHON, "-c", TICKS]))
    hears = Reader(net.lab.popen(net.agent, [PYTHON, "-c", HEARS, GATEWAY[family]]))
    try:
        net.rules("block")
        time.sleep(0.3)  # a tick that was on its way
        heard = len(hears.lines)
        assert net.client("tcp", GATEWAY[family], 80) == ["ConnectionRefusedError Connection refused", "fast"]
        time.sleep(0.5)
        assert len(hears.lines) == heard and server.lines == ["ready"]
    finally:
        net.rules("install")
        net.lab.end_last()
        net.lab.end_last()
