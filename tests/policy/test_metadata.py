"""The addresses of metadata services: each cloud's, in both families, in every form."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egress.model import ICMP, TCP, UDP
from egress.policy.metadata import SERVICES, cloud_at, is_metadata


def packed(text: str) -> bytes:
    return ip_address(text).packed


def test_every_address_is_in_its_canonical_spelling_and_known() -> None:
    assert len({ip_address(text) for text in SERVICES}) == len(SERVICES)
    for text, cloud in SERVICES.items():
        assert str(ip_address(text)) == text and cloud_at(packed(text)) == cloud


@pytest.mark.parametrize(
    "text",
    ["64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:169.254.169.254", "64:ff9b::6464:64c8"],
)
def test_a_form_of_such_an_address_is_one(text: str) -> None:
    assert is_metadata(packed(text), TCP, 80)


def test_dns_and_time_are_not_metadata() -> None:
    azure = packed("168.63.129.16")
    assert [is_metadata(azure, *where) for where in ((UDP, 53), (TCP, 53), (UDP, 123))] == [False] * 3
    assert [is_metadata(azure, *where) for where in ((TCP, 80), (TCP, 123), (TCP, 32526), (ICMP, 0))] == [True] * 4


@pytest.mark.parametrize("text", ["169.254.169.253", "169.254.1.1", "10.0.0.1", "203.0.113.9", "fd00:ec2::253", "::"])
def test_other_addresses_are_not(text: str) -> None:
    assert cloud_at(packed(text)) == "" and not is_metadata(packed(text), TCP, 80)
