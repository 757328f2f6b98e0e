"""The names of destinations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.hunt.domains import destination, registrable
from tests.examples import examples


@pytest.mark.parametrize(
    "name, domain",
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("WWW.Example.ORG.", "example.org"),
        ("d1.cloudfront.net", "d1.cloudfront.net"),
        ("localhost", "localhost"),
        ("co.uk", "co.uk"),
        ("", ""),
    ],
)
def test_registered_domains(name: str, domain: str) -> None:
    assert registrable(name) == domain


@pytest.mark.parametrize(
    "said, bound, named",
    [
        ("www.example.org", ("www.example.org",), "example.org"),
        ("WWW.example.org", ("a.example.net", "www.example.org"), "example.org"),
        ("pypi.example", ("c2.example.net", "d2.example.com"), "example.net"),
        ("www.example.org", (), "192.0.2.7"),
        ("", ("x.example.net",), "example.net"),
        ("192.0.2.7", ("192.0.2.7",), "192.0.2.7"),
    ],
)
def test_a_name_counts_where_it_was_resolved(said: str, bound: tuple[str, ...], named: str) -> None:
    assert destination(said, bound, "192.0.2.7") == named


@settings(max_examples=examples(40))
@given(st.text(max_size=80), st.lists(st.text(max_size=30), max_size=3))
def test_any_text_at_all(said: str, bound: list[str]) -> None:
    assert isinstance(registrable(said), str)
    assert isinstance(destination(said, tuple(bound), "192.0.2.7"), str)
