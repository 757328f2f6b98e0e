"""The lines of `egress doctor` on refusals by the kind of an address, and on Multipath TCP."""

from __future__ import annotations

from egress.cli.output.counted import explained


def test_each_counter_is_explained_in_one_line_with_what_to_do() -> None:
    counters = {"engine": {"private": 3, "metadata": 2}, "multipath": 7}
    lines = explained("worker 0", counters)
    assert [(line.name, line.ok) for line in lines] == [
        ("worker 0 names", True), ("worker 0 metadata", True), ("worker 0 mptcp", True),
    ]  # fmt: skip
    assert lines[0].text.startswith("3 flows to allowed names were refused")
    assert "set private: true in the rule (egress query reason:private names it)" in lines[0].text
    assert lines[1].text.endswith("(egress query reason:metadata); only a rule for the address allows it")
    assert lines[2].text == "Multipath TCP was removed from 7 connection attempts: they use one path"


def test_what_did_not_happen_is_not_mentioned() -> None:
    assert explained("worker 0", {"engine": {"private": 0}, "multipath": 0}) == explained("worker 0", {}) == []
