"""Numbers over time in one line: heights, marks, and the axis below them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.cli.output.sparkline import ASCII, TICK, UNICODE, axis_lines, bars, blocks, marks
from egress.store.query.timeline import Axis


@given(st.lists(st.integers(0, 1 << 70), max_size=40), st.sampled_from([ASCII, UNICODE]))
def test_only_nothing_is_empty_and_higher_is_never_lower(values: list[int], signs: str) -> None:
    drawn = [signs.index(sign) for sign in bars(values, signs)]
    assert [height == 0 for height in drawn] == [value == 0 for value in values]
    assert all(drawn[at] == len(signs) - 1 for at, value in enumerate(values) if value and value == max(values))
    for one, high in zip(values, drawn, strict=True):
        assert all(high <= other for value, other in zip(values, drawn, strict=True) if one <= value)


@pytest.mark.parametrize(
    "encoding, signs", [("utf-8", UNICODE), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII), ("nonsense", ASCII)]
)
def test_blocks_are_what_the_output_can_write(encoding: str | None, signs: str) -> None:
    assert blocks(encoding) == signs


def test_a_finding_is_marked_before_a_refusal() -> None:
    assert marks([0, 2, 0, 2], [0, 0, 1, 1]) == " x!!"


@pytest.mark.parametrize(
    "step, text",
    [(5, "12:00:00"), (600, "11-29 12:00"), (86400, "2026-11-29")],
)
def test_the_axis_has_a_time_under_each_tick(step: int, text: str) -> None:
    begin = 1_795_953_600  # 2026-11-29 12:00 UTC
    rule, times = axis_lines(Axis(begin, step, TICK + 1))
    assert rule == "|" + "-" * (TICK - 1) + "|"
    assert times.startswith(text)
    assert times[TICK - 1] == " " and times[TICK] != " "
