"""Finding out where an existing agent is attached, from the kernel."""

from __future__ import annotations

import ipaddress
from ast import literal_eval
from collections.abc import Iterator

import pytest

from tests.lab.net import Lab, needs_root

pytestmark = [pytest.mark.lab, needs_root]

RESOLVE = """
import sys
from egress.errors import InputError
from egress.gateway.sandbox.attach import resolve
try:
    place = resolve(*sys.argv[1:])
    sys.stdout.write(repr((place.agent, place.interface, place.networks)))
except InputError as error:
    sys.stdout.write(repr(str(error)))
"""


class Host:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.agent, self.ns, self.bridged, self.lonely = (
            lab.ns(name) for name in ("agent", "host", "bridged", "lonely")
        )
        lab.veth(self.agent, "eth0", self.ns, "v0", 1)
        lab.veth(self.ns, "out0", lab.ns("outside"), "in0", 2)
        for line in (
            f"link add c0 type veth peer name eth0 netns {self.bridged}",
            "link add br-x type bridge",
            "link set c0 master br-x up",
            "link set br-x up",
            "address add 172.30.0.1/29 dev br-x",
            "address add fd30::1/126 dev br-x nodad",
            "link add bare type dummy_or_bridge",
            "link add odd+name type bridge",
            "route add default via 10.99.2.1",
        ):
            words = line.replace("dummy_or_bridge", "bridge").split()
            lab.run(self.ns, ["ip", *words], check=True)
        for line in (
            "address add 172.30.0.2/29 dev eth0",
            "address add fd30::2/126 dev eth0 nodad",
            "link set eth0 up",
        ):
            lab.run(self.bridged, ["ip", *line.split()], check=True)

    def behind(self, kind: str, value: str) -> str:
        code = "import sys\nfrom egress.gateway.sandbox.attach import behind\nsys.stdout.write(behind(*sys.argv[1:]))"
        return self.lab.python(self.ns, code, kind, value)

    def resolve(self, kind: str, value: str) -> object:
        return literal_eval(self.lab.python(self.ns, RESOLVE, kind, value, "bot"))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield Host(lab)


def test_a_namespace_with_a_veth_of_its_own_owns_its_subnets(host: Host) -> None:
    assert host.resolve("netns", host.agent) == ("bot", "v0", ("10.99.1.0/24", "fd99:1::/64"))


def test_every_way_into_a_namespace_is_found(host: Host) -> None:
    code = RESOLVE.replace("place.networks", "place.others, place.outside")

    def ways() -> object:
        return literal_eval(host.lab.python(host.ns, code, "netns", host.agent, "bot"))

    assert ways() == ("bot", "v0", (), ())
    for line in (
        f"link add v1 type veth peer name eth1 netns {host.agent}",
        f"link add v2 type veth peer name eth2 netns {host.agent}",
        "link set v2 master br-x",
        f"link add link out0 name mv0 netns {host.agent} type macvlan",
        f"-n {host.agent} link add inner0 type veth peer name inner1",
    ):
        host.lab.run(host.ns, ["ip", *line.split()], check=True)
    assert ways() == ("bot", "v0", ("v1", "br-x"), ("mv0",))
    for name in ("eth1", "eth2", "mv0", "inner0"):
        host.lab.run(host.ns, ["ip", "-n", host.agent, "link", "delete", name], check=True)
    assert ways() == ("bot", "v0", (), ())


def test_a_namespace_on_a_bridge_owns_its_addresses_only(host: Host) -> None:
    assert host.resolve("netns", host.bridged) == ("bot", "br-x", ("172.30.0.2/32", "fd30::2/128"))


def test_what_is_guarded_does_not_depend_on_what_the_agent_does(host: Host) -> None:
    """An agent can remove its addresses, but not the interface that it is behind."""
    inside = ["ip", "-n", host.agent, "address"]
    assert (host.behind("netns", host.agent), host.behind("netns", host.bridged)) == ("v0", "br-x")
    host.lab.run(host.ns, [*inside, "flush", "dev", "eth0", "scope", "global"], check=True)
    assert "has no address on its veth" in str(host.resolve("netns", host.agent))
    assert host.behind("netns", host.agent) == "v0"
    for address in ("10.99.1.2/24", "fd99:1::2/64"):
        host.lab.run(
            host.ns, [*inside, "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])], check=True
        )
    assert host.behind("netns", host.lonely) == host.behind("netns", "no-such") == ""
    assert (host.behind("interface", "not-yet"), host.behind("cidr", "10.5.0.0/24@not-yet")) == ("not-yet", "not-yet")
    assert host.behind("interface", "bare") == "bare"
    assert host.behind("interface", "out0") == host.behind("interface", "lo") == ""


def test_an_interface_owns_its_subnets_without_the_hosts_addresses(host: Host) -> None:
    answer = host.resolve("interface", "br-x")
    assert isinstance(answer, tuple)
    owned = {address for cidr in answer[2] for address in ipaddress.ip_network(cidr)}
    expected = {*ipaddress.ip_network("172.30.0.0/29"), *ipaddress.ip_network("fd30::/126")}
    assert owned == expected - {ipaddress.ip_address("172.30.0.1"), ipaddress.ip_address("fd30::1")}


def test_a_cidr_behind_an_interface(host: Host) -> None:
    assert host.resolve("cidr", "10.5.0.0/24@v0") == ("bot", "v0", ("10.5.0.0/24",))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("netns", "no-such", "no network namespace 'no-such': `ip netns list` has"),
        ("interface", "no-such", "no interface 'no-such': see `ip link`"),
        ("interface", "../lo", "no interface"),
        ("interface", "c0", "c0 is a port of bridge br-x: add `interface br-x` instead"),
        ("interface", "bare", "name the agent's networks, as CIDR@bare"),
        ("interface", "odd+name", "interface 'odd+name' of odd+name: rename it to at most 15 letters"),
        ("interface", "out0", "out0 is this host's way out"),
        ("interface", "lo", "lo is the host's own"),
        ("cidr", "10.0.0.0/8", "is not CIDR@interface, e.g. 10.5.0.0/24@eth1"),
        ("cidr", "10.0.0.1/8@v0", "has host bits set: write CIDR@interface"),
        ("cidr", "10.0.0.0/8@", "no interface ''"),
        ("pod", "x", "'pod' is not a kind of attachment: use one of netns, interface, cidr"),
    ],
)
def test_errors_are_one_line_and_say_what_to_do(host: Host, kind: str, value: str, says: str) -> None:
    error = host.resolve(kind, value)
    assert isinstance(error, str) and says in error and "\n" not in error


def test_a_namespace_without_a_link_says_how_to_make_one(host: Host) -> None:
    error = host.resolve("netns", host.lonely)
    assert isinstance(error, str)
    assert f"`ip link add NAME type veth peer name eth0 netns {host.lonely}`" in error
