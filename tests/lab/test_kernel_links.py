"""Links, addresses, routes and names of namespaces, as `ip` sees them, which shares no code with us."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from egress.gateway.sandbox import netns
from tests.lab.net import Lab, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

MAKE = """
import sys
from pathlib import Path
from egress.gateway.kernel import rtnetlink
with rtnetlink.Rtnetlink(rtnetlink.open_socket()) as route:
    with Path(sys.argv[1]).open("rb") as namespace:
        route.add_veth("egr0001", "eth0", namespace.fileno())
    index = route.index("egr0001")
    for address, prefix in (("10.77.0.1", 30), ("fd65::1", 64)):
        route.add_address(index, address, prefix)
    route.set_up(index)
    for gateway in ("10.77.0.2", "fd65::2"):
        route.add_default_route(gateway, index)
print(index)
"""
REFUSED = """
from egress.errors import EgressError
from egress.gateway.kernel import rtnetlink
with rtnetlink.Rtnetlink(rtnetlink.open_socket()) as route:
    route.delete_link("egr0001")
    for step in (
        lambda: route.index("egr0001"),
        lambda: route.set_up(4711),
        lambda: route.add_address(1, "10.77.0.1", 33),
        lambda: route.add_default_route("10.77.0.2", 1),
    ):
        try:
            step()
            print("done")
        except EgressError as error:
            print(error)
    route.set_up(1)
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as built:
        yield built


def ask(lab: Lab, namespace: str, *words: str) -> list[dict[str, object]]:
    listed = lab.run(namespace, ["ip", "-json", *words], check=True).stdout
    return [each for each in json.loads(listed or "[]") if each]


def test_a_veth_its_addresses_and_routes_are_there_and_go(lab: Lab) -> None:
    here, there = lab.ns("here"), lab.ns("there")
    index = int(lab.python(here, MAKE, f"/run/netns/{there}"))
    (link,) = ask(lab, here, "-d", "address", "show", "dev", "egr0001")
    assert link["ifindex"] == index and link["linkinfo"] == {"info_kind": "veth"}
    assert "UP" in str(link["flags"])
    addresses = link["addr_info"]
    assert isinstance(addresses, list)
    assert [(each["local"], each["prefixlen"]) for each in addresses if each["scope"] == "global"] == [
        ("10.77.0.1", 30),
        ("fd65::1", 64),
    ]
    for family, gateway in (("-4", "10.77.0.2"), ("-6", "fd65::2")):
        (route,) = ask(lab, here, family, "route", "show", "default")
        assert (route["gateway"], route["dev"]) == (gateway, "egr0001")
    (peer,) = ask(lab, there, "link", "show", "dev", "eth0")
    assert "UP" not in str(peer["flags"]).replace("LOWER_UP", "")
    lab.python(here, REFUSED)  # deletes it first
    assert [each["ifname"] for each in ask(lab, here, "link")] == ["lo"]
    assert [each["ifname"] for each in ask(lab, there, "link")] == ["lo"]


def test_each_refusal_names_the_step_and_the_next_one_works(lab: Lab) -> None:
    assert lab.python(lab.ns("here"), REFUSED).splitlines() == [
        "cannot find the interface egr0001: No such device",
        "cannot set interface 4711 up: No such device",
        "cannot add the address 10.77.0.1: Invalid argument",
        "cannot add the route through 10.77.0.2: Network is unreachable",
    ]


def test_names_of_namespaces_are_those_of_ip_netns(lab: Lab) -> None:
    """One that `ip netns` made is removed as ours are, and so is a file that nothing is mounted on."""
    there = lab.ns("there")
    process = lab.popen(there, ["sleep", "60"])
    eventually(lambda: netns.processes(there) == [process.pid], "the process is inside")
    other = f"{there}-other"
    netns.give_name(other, Path(f"/proc/{process.pid}/ns/net"))
    assert lab.run(other, ["cat", "/sys/class/net/lo/ifindex"], check=True).stdout == "1\n"
    with pytest.raises(FileExistsError):
        netns.give_name(other, Path(f"/proc/{process.pid}/ns/net"))
    netns.remove(other)
    netns.path(other).touch()
    assert netns.processes(other) == []
    for _ in range(2):
        netns.remove(other)
        assert not netns.path(other).exists()
