"""Hunters are found by walking their package, and chosen by id."""

from __future__ import annotations

import re

import pytest

from egress.errors import InputError
from egress.hunt.hunters import load

FAMILIES = "mining|ssh|beacon|tunnel|dns|icmp|probe|opaque|wallet"


def test_each_says_what_it_is() -> None:
    hunters = load()
    assert len(hunters) >= 5
    for hunter in hunters:
        assert re.fullmatch(rf"({FAMILIES})\.[a-z0-9-]+", hunter.id)
        assert re.fullmatch(r"T\d{4}(\.\d{3})?", hunter.technique)
        assert hunter.about and "\n" not in hunter.about


def test_they_are_chosen_by_id_or_family() -> None:
    assert [each.id for each in load(["beacon.*"])] == ["beacon.shared", "beacon.slow"]
    assert [each.id for each in load(["dns.slow-leak", "beacon.slow"])] == ["beacon.slow", "dns.slow-leak"]
    with pytest.raises(InputError, match=r"unknown hunter 'beacon\.fast'; the hunters are beacon\.shared, "):
        load(["beacon.fast"])
