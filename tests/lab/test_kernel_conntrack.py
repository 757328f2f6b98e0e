"""The kernel's connection table, read and changed by netlink in a namespace; `conntrack` is not needed for it."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator

import pytest

from tests.lab.net import Lab, needs_root

pytestmark = [pytest.mark.lab, needs_root]

HOSTS = {4: "10.99.1.1", 6: "fd99:1::1"}
NETWORKS = {4: "10.99.1.2/32", 6: "fd99:1::2/128"}
OTHERS = ("10.99.7.0/24", "fd99:7::/64")

SEND = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
for port in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
    s.sendto(b"x", (sys.argv[1], port))
"""
CALL = """
import sys
from egress.gateway.kernel import conntrack
networks = sys.argv[2].split(",")
if sys.argv[1] == "delete":
    done = conntrack.delete(networks)
else:
    done = conntrack.unmark(networks, value=0x02000000, match=0x0E000000, clear=0x0F000000)
sys.stdout.write(repr(done))
"""
SHOW = """
import socket, sys
from egress.gateway.kernel import conntrack
with conntrack._socket() as listing:
    found = [conntrack.parse(body)[:2] for body in conntrack._bodies(listing, int(sys.argv[1]), int(sys.argv[2]))]
sys.stdout.write(repr(found))
"""


class Table:
    """A host that marks what an agent sends to ports 2000, 3000 and 1000: refused, dropped and settled."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.host, self.agent = lab, lab.ns("host"), lab.ns("agent")
        lab.veth(self.agent, "eth0", self.host, "egr0001", 1)
        for tool in ("iptables", "ip6tables"):
            for port, mark in ((1000, 0x01000005), (2000, 0x02000005), (3000, 0x03000005)):
                words = ["-p", "udp", "--dport", f"{port}:{port + 999}", "-j", "CONNMARK", "--set-mark", str(mark)]
                lab.run(self.host, [tool, "-t", "mangle", "-A", "INPUT", *words], check=True)

    def send(self, family: int, port: int, number: int = 1) -> None:
        self.lab.python(self.agent, SEND, HOSTS[family], str(port), str(number))

    def call(self, what: str, *networks: str) -> int:
        return int(self.lab.python(self.host, CALL, what, ",".join(networks)))

    def marked(self, mark: int) -> int:
        return len(literal_eval(self.lab.python(self.host, SHOW, str(mark), str(0xFFFFFFFF))))

    def counts(self) -> list[int]:
        """Entries settled, refused, dropped, and with our bits zeroed but the others there."""
        return [self.marked(mark) for mark in (0x01000005, 0x02000005, 0x03000005, 0x00000005)]


@pytest.fixture
def table() -> Iterator[Table]:
    with Lab() as lab:
        yield Table(lab)


@pytest.mark.parametrize("family", [4, 6])
def test_refusals_of_a_network_are_unmarked_and_nothing_else(table: Table, family: int) -> None:
    for port in (1000, 2000, 3000):
        table.send(family, port, 3)
    assert table.counts() == [3, 3, 3, 0]
    assert table.call("unmark", *OTHERS, NETWORKS[10 - family]) == 0
    assert table.counts() == [3, 3, 3, 0]
    assert table.call("unmark", NETWORKS[family]) == 6
    assert table.counts() == [3, 0, 0, 6]
    assert table.call("unmark", NETWORKS[family]) == 0


@pytest.mark.parametrize("family", [4, 6])
def test_entries_of_a_network_are_deleted_whoever_began_them(table: Table, family: int) -> None:
    table.send(family, 1000, 2)
    agent = NETWORKS[family].split("/")[0]
    table.lab.python(table.host, SEND, agent, "4000", "2")  # the host began these
    assert len(literal_eval(table.lab.python(table.host, SHOW, "0", "0"))) >= 4
    assert table.call("delete", *OTHERS) == 0
    assert table.call("delete", NETWORKS[family]) >= 4
    assert agent not in table.lab.run(table.host, ["cat", "/proc/net/nf_conntrack"]).stdout
    assert table.counts() == [0, 0, 0, 0]


def test_thousands_are_done_in_a_moment(table: Table) -> None:
    """The entries fill several of the kernel's answers."""
    for family in (4, 6):
        table.send(family, 2000, 999)
        table.send(family, 3000, 999)
    assert table.counts() == [0, 1998, 1998, 0]
    assert table.call("unmark", *NETWORKS.values()) == 3996
    assert table.counts() == [0, 0, 0, 3996]
    assert table.call("delete", *NETWORKS.values()) >= 3996
