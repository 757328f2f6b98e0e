"""A rule as text: all forms of expiry, and errors that name their field."""

from __future__ import annotations

import pytest

from egress.model import Action, Rule
from egress.policy.ruletext import InvalidRuleError, parse_expiry, read_rule, to_mapping

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("forever", (None, False)),
        ("once", (None, True)),
        ("5m", (NOW + 300, False)),
        ("15m", (NOW + 900, False)),
        ("1h", (NOW + 3600, False)),
        ("1d", (NOW + 86400, False)),
        ("1w", (NOW + 604800, False)),
        ("9999w", (NOW + 9999 * 604800, False)),
        ("2023-11-14T22:13:20Z", (NOW, False)),
        ("2023-11-15T00:13:20.000001+02:00", (NOW + 1e-6, False)),
    ],
)
def test_expiry(text: str, expected: tuple[float | None, bool]) -> None:
    assert parse_expiry(text, NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "0m", "5", "5s", "-5m", "1.5h", "5M", "99999w", "once ", "never", "2023-11-14", "١h"]
)
def test_what_is_no_expiry_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"once, a duration \(5m, 1h, 1d, 1w\), an instant"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize("text", ["once", "5m", "1w"])
def test_nothing_relative_without_a_moment(text: str) -> None:
    with pytest.raises(ValueError, match="is for rules made by a command or the API"):
        parse_expiry(text, None)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"action": "allow", "ports": 0}, "ports"),
        ({"action": "allow", "protocol": "icmp", "ports": 8}, "ports"),
        ({"action": "allow", "ports": list(range(1, 258))}, "ports"),
        ({"action": "allow", "exempt": ["mining.*"] * 65}, "exempt"),
        ({"action": "allow", "expires": None}, "expires"),
        ({"action": "deny", "expires": "once"}, "expires"),
        ({"action": "allow", "destination": "*"}, "destination"),
        ({"destination": "any"}, ""),
        ({"action": "allow", "sport": 1}, ""),
        (["allow"], ""),
    ],
)
def test_errors_name_their_field(item: object, field: str) -> None:
    with pytest.raises(InvalidRuleError) as caught:
        read_rule(item, NOW)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: " if field else "") and "\n" not in str(caught.value)


def test_defaults_are_not_written() -> None:
    assert to_mapping(Rule("r", Action.ACCEPT)) == {"id": "r", "action": "allow", "destination": "any", "agent": "*"}


def test_unnamed_goes_with_every_form_of_name() -> None:
    for name in ("db1", "x9.e", "*.a-1", "**.f00d", "1-2"):
        rule = read_rule({"action": "allow", "destination": name, "unnamed": True})
        assert rule.unnamed and rule.destination == name


def test_private_is_read_and_written_and_a_rule_without_it_keeps_the_id_that_it_had() -> None:
    rule = read_rule({"action": "allow", "destination": "mirror.example.org", "ports": [443], "private": True})
    assert rule.private and to_mapping(rule)["private"] is True
    assert read_rule(to_mapping(rule)) == rule
    plain = read_rule({"action": "allow", "destination": "mirror.example.org", "ports": [443], "unnamed": True})
    assert (plain.id, "private" in to_mapping(plain)) == ("26048e683876", False)
    assert plain.id != rule.id
