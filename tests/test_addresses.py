"""Networks of packed addresses: both families, the longest prefix."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress.addresses import Network, Networks


def test_networks_hold_both_families() -> None:
    networks = Networks(("10.0.0.0/24", "fd00::/64"))
    inside = ["10.0.0.255", "fd00::1"]
    outside = ["10.0.1.0", "fd00:0:0:1::", "::ffff:10.0.0.1"]
    assert all(ip_address(each).packed in networks for each in inside)
    assert not any(ip_address(each).packed in networks for each in outside)
    assert ip_address("10.0.0.1").packed not in Networks(())


def test_the_longest_prefix_matches() -> None:
    networks = Networks(("0.0.0.0/0", "10.1.0.0/16", "10.0.0.0/8", "10.1.2.3"))
    assert networks.longest(ip_address("10.1.2.3").packed) == Network.parse("10.1.2.3/32")
    assert networks.longest(ip_address("10.1.9.9").packed) == Network.parse("10.1.0.0/16")
    assert networks.longest(ip_address("192.0.2.1").packed) == Network.parse("0.0.0.0/0")
    assert networks.longest(ip_address("::1").packed) is None


def test_host_bits_may_be_set_and_other_text_is_refused() -> None:
    assert Network.parse("10.0.0.7/24") == Network.parse("10.0.0.0/24") == Network(4, 8, 0x0A0000)
    with pytest.raises(ValueError):
        Networks(("10.0.0.0/8", "example.org"))
