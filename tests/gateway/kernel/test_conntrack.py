"""Messages of the connection table, byte by byte. tests/lab/test_kernel_conntrack.py uses a real kernel."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import EgressError
from egress.gateway.kernel import conntrack, netlink
from egress.gateway.kernel.netlink import attribute

NESTED = 0x8000
AGENT, SERVER, OUTSIDE = bytes([10, 0, 0, 2]), bytes([192, 0, 2, 1]), bytes([198, 51, 100, 7])


def end(source: bytes, target: bytes) -> bytes:
    kinds = (1, 2) if len(source) == 4 else (3, 4)
    addresses = attribute(kinds[0], source) + attribute(kinds[1], target)
    ports = attribute(1, b"\x11") + attribute(2, b"\x11\x5c") + attribute(3, b"\x00\x35")
    return attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports)


def entry(*, zone: bool = False) -> bytes:
    """A masqueraded connection: its answers go to the host's address."""
    parts = attribute(1 | NESTED, end(AGENT, SERVER)) + attribute(2 | NESTED, end(SERVER, OUTSIDE))
    parts += attribute(8, bytes(4)) + attribute(12, b"\x01\x02\x03\x04")
    return struct.pack(">BBH", 2, 0, 0) + parts + (attribute(18, b"\x00\x07") if zone else b"")


@pytest.mark.parametrize("zone", [False, True])
def test_an_entry_is_known_by_its_ends_and_named_as_it_came(zone: bool) -> None:
    found = conntrack.parse(entry(zone=zone))
    assert found is not None
    assert (found.family, found.sources) == (2, (AGENT, SERVER))
    named = attribute(1 | NESTED, end(AGENT, SERVER))
    assert found.name == named + (attribute(18, b"\x00\x07") if zone else b"") + attribute(12, b"\x01\x02\x03\x04")


def test_a_request_and_its_bytes() -> None:
    request = conntrack.message(2, 4, 10, b"abcd")
    assert struct.unpack_from("=IHHII", request) == (24, 0x0102, 5, 0, 0)  # DELETE, NLM_F_REQUEST | NLM_F_ACK
    assert request[16:] == bytes([10, 0, 0, 0]) + b"abcd"


@pytest.mark.parametrize("cut", range(len(entry())))
def test_an_entry_that_is_cut_off_names_no_other(cut: int) -> None:
    found = conntrack.parse(entry()[:cut])
    assert found is None or found.sources == (AGENT, SERVER)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    for _, body in netlink.messages(data):
        conntrack.parse(body)
    found = conntrack.parse(data)
    assert found is None or all(found.sources)


@given(st.ip_addresses(), st.data())
def test_no_address_of_a_network_is_passed_over(address: IPv4Address | IPv6Address, data: st.DataObject) -> None:
    network = ip_network(f"{address}/{data.draw(st.integers(0, address.max_prefixlen))}", strict=False)
    (beginning,) = conntrack._beginnings([str(network)])
    inside = data.draw(st.integers(int(network.network_address), int(network.broadcast_address)))
    assert beginning in inside.to_bytes(address.max_prefixlen // 8)


def test_no_networks_is_nothing_to_do() -> None:
    assert conntrack.delete([]) == 0


def test_without_conntrack_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "NETLINK_NETFILTER", 31)  # a netlink family that does not exist
    with pytest.raises(EgressError, match=r"^cannot change the kernel's connections \(.*\): run `modprobe nf_conn"):
        conntrack.delete(["10.0.0.0/8"])
