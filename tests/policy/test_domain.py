"""Names and patterns: many spellings, one name; an invalid name is refused with the reason."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.policy.domain import (
    MAX_NAME,
    Depth,
    Pattern,
    canonical,
    is_address,
    is_host,
    matches,
    normalise,
    parse_pattern,
    reverse_address,
)

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 255 octets on the wire
labels = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.ORG", "example.org"),
        ("eXaMpLe.oRg.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER。Example．", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("ＥＸＡＭＰＬＥ.org", "example.org"),
        ("_dmarc.a_b.example", "_dmarc.a_b.example"),
        ("xn--ls8h.la", "xn--ls8h.la"),
        ("db", "db"),
        ("1.example", "1.example"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
    ],
)
def test_one_spelling(text: str, name: str) -> None:
    assert normalise(text) == canonical(text) == name
    assert is_host(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("*", "write any"),
        ("**", "write any"),
        ("*.", "write any"),
        ("**.", "write any"),
        (".", "write any"),
        ("any", "write any"),
        ("Any.", "write any"),
        ("ａｎｙ", "write any"),
        ("a*.example", "wildcard in the wrong place"),
        ("a.*.example", "wildcard in the wrong place"),
        ("*.*.example", "wildcard in the wrong place"),
        ("***.example", "wildcard in the wrong place"),
        ("a..example", "empty label"),
        (".example", "empty label"),
        ("example..", "empty label"),
        ("a b.example", "labels are letters, digits, - and _"),
        ("a\0.example", "labels are letters, digits, - and _"),
        ("example.org\n", "labels are letters, digits, - and _"),
        ("https://example.org", "labels are letters, digits, - and _"),
        ("a" * 64 + ".example", "longer than 63 octets"),
        ("ü" * 60 + ".example", "not valid IDNA"),
        (LONGEST + "b", "longer than a name may be, 255 octets"),
        ("*." + LONGEST[1:], "leaves no room"),
        ("💩.la", "not valid IDNA"),
        ("a\u200d.example", "not valid IDNA"),
        ("xn--\u00fc.example", "not valid IDNA"),
        ("xn--99999999999.example", "not valid IDNA"),
        ("\ud800.example", "not a name in any script"),
        ("192.0.2.256", "ends in a number"),
        ("10.0", "ends in a number"),
        ("example.0x7f", "ends in a number"),
    ],
)
def test_what_is_no_pattern_says_why(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_pattern(text)
    assert str(caught.value).isprintable() and str(caught.value).encode("utf-8")


def test_a_wildcard_leaves_room_for_a_label() -> None:
    base = LONGEST[2:]
    for depth in (Depth.ONE, Depth.DEEP):
        pattern = parse_pattern(depth.value + base)
        assert pattern.depth is depth and matches(pattern, normalise("a." + base))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("x.org", ["x.org"], ["a.x.org", "ax.org", "org", ""]),
        ("*.x.org", ["a.x.org"], ["x.org", "a.b.x.org", "ax.org", ""]),
        ("**.x.org", ["a.x.org", "a.b.x.org"], ["x.org", "ax.org", "x.org.evil", ""]),
    ],
)
def test_depth(pattern: str, yes: list[str], no: list[str]) -> None:
    parsed = parse_pattern(pattern.upper() + ".")
    assert str(parsed) == pattern
    assert all(matches(parsed, name) for name in yes)
    assert not any(matches(parsed, name) for name in no)


@given(names, st.sampled_from(list(Depth)), st.randoms(use_true_random=False))
def test_case_and_the_last_dot_never_matter(name: str, depth: Depth, random: object) -> None:
    mixed = "".join(letter.upper() if random.random() < 0.5 else letter for letter in name)  # type: ignore[attr-defined]
    if name == "any" and depth is Depth.EXACT:
        return
    assert parse_pattern(depth.value + mixed + ".") == Pattern(name, depth) == parse_pattern(depth.value + name)
    assert canonical(mixed + ".") == name


@given(names, names, st.sampled_from(list(Depth)))
def test_matching_is_counting_labels(name: str, base: str, depth: Depth) -> None:
    for candidate in (name, base, f"{name}.{base}", f"x{base}"):
        mine, wanted = candidate.split("."), base.split(".")
        more = len(mine) - len(wanted)
        allowed = {Depth.EXACT: more == 0, Depth.ONE: more == 1, Depth.DEEP: more >= 1}[depth]
        expected = allowed and mine[more:] == wanted
        assert matches(Pattern(base, depth), candidate) == expected


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_a_phrase(text: str) -> None:
    try:
        name = normalise(text)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert normalise(name) == name == canonical(text)
    assert is_host(name) and len(name) + 2 <= MAX_NAME and max(map(len, name.split("."))) <= 63


@given(st.text(max_size=300))
def test_what_comes_from_the_wire_is_never_refused(text: str) -> None:
    assert canonical(canonical(text)) in (canonical(text), canonical(text).removesuffix("."))


def test_long_text_costs_little() -> None:
    """A hostile Host field may hold a name of a megabyte."""
    for text in ("ü" * 1_000_000, "a." * 500_000, "ü." * 500_000):
        assert not is_host(canonical(text))


@pytest.mark.parametrize("name", ["a b.x.org", "evil.com/.x.org", "a..x.org", ".x.org", "\\046.x.org", "a" * 64, ""])
def test_what_no_host_is_called(name: str) -> None:
    assert not is_host(canonical(name))


@given(st.ip_addresses())
def test_addresses_and_their_reverse_names(address: object) -> None:
    parsed = ip_address(str(address))
    assert is_address(str(parsed)) and is_address(f"[{parsed}]") == (parsed.version == 6)
    assert reverse_address(canonical(parsed.reverse_pointer.upper() + ".")) == parsed.packed
    assert reverse_address("x." + parsed.reverse_pointer) is None
    assert reverse_address(parsed.reverse_pointer.partition(".")[2]) is None


@pytest.mark.parametrize(
    "name",
    ["256.0.0.1.in-addr.arpa", "01.0.0.1.in-addr.arpa", "in-addr.arpa", "x.org", "", "g" + ".0" * 31 + ".ip6.arpa"],
)
def test_what_is_no_reverse_name(name: str) -> None:
    assert reverse_address(name) is None
    assert not is_address(name)
