"""The time at which frames are judged: outliers do not move it, files in the wrong order begin it anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.capture.clock import LOOK, moments
from egress.capture.frame import Frame, TruncatedError

NOW, FUTURE = 1_700_000_000.0, 4_294_967_000.0


def frames(times: list[float]) -> Iterator[Frame]:
    return (Frame(number, ts, 101, b"", 0) for number, ts in enumerate(times, 1))


def judged(times: list[float]) -> list[float]:
    return [moment.ts for moment in moments(frames(times))]


def begun_anew(times: list[float]) -> list[int]:
    """Play the times and return the numbers of the frames with which time begins anew."""
    return [moment.frame.number for moment in moments(frames(times)) if moment.anew]


def regular(start: float, count: int = 40, step: float = 10.0) -> list[float]:
    return [start + number * step for number in range(count)]


@pytest.mark.parametrize("step", [0.0, 0.001, 10.0, 86_400.0, 31_536_000.0])
def test_time_that_goes_forward_is_followed(step: float) -> None:
    times = regular(NOW, step=step)
    assert judged(times) == times
    assert not begun_anew(times)


def test_small_disorder_stands_still() -> None:
    assert judged([NOW, NOW + 5, NOW + 4, NOW + 6, NOW - 50, NOW + 7]) == [NOW + each for each in (0, 5, 5, 6, 6, 7)]


@pytest.mark.parametrize("at", [0, 1, 17, 30])
@pytest.mark.parametrize("wrong", [0.0, NOW - 90_000, NOW + 90_000, FUTURE, 1e300])
@pytest.mark.parametrize("count", [1, 3])
def test_outliers_do_not_move_time(at: int, wrong: float, count: int) -> None:
    times = regular(NOW)
    mixed = times[:at] + [wrong] * count + times[at:]
    got = judged(mixed)
    assert not begun_anew(mixed)
    if at or wrong > NOW:  # an early first frame and a pause after it look the same
        assert got[:at] + got[at + count :] == times
        assert min(times) <= min(got) and max(got) <= max(times)


def test_files_in_the_wrong_order_begin_anew() -> None:
    first, second, third = regular(NOW), regular(NOW + 1000), regular(NOW + 90_000)
    for times in (second + first, third + first + second, third + second + first, third + first + third):
        assert judged(times) == times
    assert begun_anew(second + first) == [41]
    assert begun_anew(third + second + first) == [41, 81]
    assert begun_anew(third + first + third) == [41]


def test_time_that_runs_backwards_stands_still() -> None:
    times = regular(NOW, step=-1000.0)
    assert not begun_anew(times)


def test_two_clocks_in_turn_stand_still() -> None:
    times = [each for ts in regular(NOW) for each in (ts, ts - 7200)]
    assert not begun_anew(times)
    assert judged(times)[::2] == regular(NOW)


def test_damage_comes_after_the_frames_before_it() -> None:
    def damaged(times: list[float]) -> Iterator[Frame]:
        yield from frames(times)
        raise TruncatedError("cut")

    for count in range(LOOK + 3):
        got: list[float] = []
        with pytest.raises(TruncatedError, match="cut"):
            got.extend(moment.ts for moment in moments(damaged(regular(NOW, count))))
        assert got == regular(NOW, count)


@given(st.lists(st.floats(-1e20, 1e20), max_size=60))
def test_any_times(times: list[float]) -> None:
    got = list(moments(frames(times)))
    assert [moment.frame.ts for moment in got] == times
    for before, after in pairwise(got):
        assert after.ts >= before.ts or after.anew
