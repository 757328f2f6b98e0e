"""Special-purpose addresses, compared with the standard library, and the IPv4 addresses inside IPv6 ones."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.special import embedded, is_global, same_host

DOCUMENTATION = [
    ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
]
UNICAST = ip_network("2000::/3")
# Where versions of the standard library differ from each other, or from IANA's registries.
DISPUTED = [ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "64:ff9b:1::/48", "2002::/16")]
FORMS = {
    "::ffff:{v4}": "mapped",
    "::{v4}": "compatible",
    "::ffff:0:{v4}": "SIIT",
    "64:ff9b::{v4}": "NAT64",
    "2002:{hex}::1": "6to4",
    "2001:0:808:808:0:0:{inverted}": "Teredo",
    "2001:0:{hex}:0:0:f7f7:f7f7": "Teredo, the server",
    "2600::5efe:{v4}": "ISATAP",
    "2600::200:5efe:{v4}": "ISATAP, of a global address",
}


def packed(text: str) -> bytes:
    return ip_address(text).packed


def formed(form: str, v4: str) -> bytes:
    value = int(IPv4Address(v4))
    other = value ^ 0xFFFFFFFF
    words = {"hex": f"{value >> 16:x}:{value & 0xFFFF:x}", "inverted": f"{other >> 16:x}:{other & 0xFFFF:x}"}
    return packed(form.format(v4=v4, **words))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_it_agrees_with_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    if any(address in network for network in DISPUTED) or embedded(address.packed):
        return
    documented = any(address in network for network in DOCUMENTATION)
    unicast = (
        address.is_global and not address.is_multicast and (address.version == 4 or address in ip_network("2000::/3"))
    )
    assert is_global(address.packed) is (unicast or documented)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.16.0.1",
        "172.31.255.255", "192.0.0.192", "192.168.0.1", "198.18.0.1", "224.0.0.251", "240.0.0.1", "255.255.255.255",
        "192.88.99.1", "::", "::1", "fe80::1", "fec0::1", "fd00:ec2::254", "fc00::1", "ff02::1", "100::1", "5f00::1",
        "64:ff9b:1::808:808", "2001:2::1", "2001:10::1", "4000::1",
    ],
)  # fmt: skip
def test_what_is_not_global(text: str) -> None:
    assert not is_global(packed(text))


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.0.9", "168.63.129.16", "192.0.2.1", "198.51.100.1",
        "203.0.113.9", "2600::1", "2001:db8::9", "3fff::1", "2001:1::1", "2001:20::1", "2001:4860::1",
        "2620:4f:8000::1", "64:ff9b::8.8.8.8",
    ],
)  # fmt: skip
def test_what_is_global(text: str) -> None:
    assert is_global(packed(text))


@pytest.mark.parametrize("form", FORMS, ids=FORMS.values())
@pytest.mark.parametrize("v4", ["10.1.2.3", "169.254.169.254", "127.0.0.1", "192.168.7.1"])
def test_a_form_of_an_address_that_is_not_global_is_not_either(form: str, v4: str) -> None:
    address = formed(form, v4)
    assert packed(v4) in embedded(address)
    assert not is_global(address)


@pytest.mark.parametrize("form", ["64:ff9b::{v4}", "2002:{hex}::1", "2001:0:808:808:0:0:{inverted}", "2600::5efe:{v4}"])
def test_a_form_of_a_global_address_is_global(form: str) -> None:
    assert is_global(formed(form, "8.8.4.4"))


@pytest.mark.parametrize(
    "text",
    [  # RFC 6052 section 2.4, with the local prefix of RFC 8215
        "64:ff9b:1:c000:2:2100::",
        "64:ff9b:1:abc0:0:221::",
        "64:ff9b:1:abcd:c0:2:2100:0",
        "64:ff9b:1:abcd:0:5678:c000:221",
    ],
    ids=["/48", "/56", "/64", "/96"],
)
def test_the_local_prefix_is_read_in_each_way(text: str) -> None:
    assert packed("192.0.2.33") in embedded(packed(text))


def test_one_reading_is_not_refused_for_another_that_no_host_has() -> None:
    """With a deny rule for 0.0.0.0/8, which many lists have, 64:ff9b:1::8.8.8.8 is still allowed."""
    assert embedded(packed("64:ff9b:1::8.8.8.8")) == (packed("8.8.8.8"),)
    assert embedded(packed("::1")) == embedded(packed("::")) == ()


@pytest.mark.parametrize(
    ("text", "v4"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("64:ff9b:1::192.0.2.1", ""),
        ("2002:c000:201::1", ""),
        ("2600::1", ""),
        ("192.0.2.1", ""),
    ],
)
def test_which_addresses_name_the_same_host(text: str, v4: str) -> None:
    assert same_host(packed(text)) == (packed(v4) if v4 else None)


@given(st.binary(max_size=20))
def test_it_never_raises(address: bytes) -> None:
    assert is_global(address) in (True, False)
    assert all(len(each) == 4 for each in embedded(address))
