"""The join by time against the plainest one there is, and at its edges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress.store.query.stepjoin import LISTED, SHOWN, Gap, Interval, Join, SentFlow, Traffic, merged
from egress.store.recording.steps import PARALLEL

moments = st.integers(0, 60)
intervals = st.lists(st.tuples(moments, st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))), max_size=12)
lives = st.lists(st.tuples(moments, st.none() | st.integers(0, 40)), max_size=30)


def flow(number: int, start: int, last: int | None = None, *, refused: bool = False, label: str = "a") -> SentFlow:
    return SentFlow(f"{number:016x}", start, start if last is None else last, label, refused, 10, 1)


def joined(steps: list[Interval], sent: list[SentFlow], others: list[Interval] | None = None, end: int = 100) -> Join:
    join = Join(sorted(steps), merged(sorted([*steps, *(others or [])])), (0, end))
    join.flows(sorted(sent, key=lambda each: each.start))
    join.settle()
    return join


@given(steps=intervals, others=intervals, lives=lives)
def test_it_says_what_the_plainest_join_says(
    steps: list[Interval], others: list[Interval], lives: list[tuple[int, int | None]]
) -> None:
    steps = sorted(steps)
    sent = [
        SentFlow(f"{number:016x}", start, None if length is None else start + length, "a", False, 1, 0)
        for number, (start, length) in enumerate(lives)
    ]
    join = joined(steps, sent, others)
    for (start, end), traffic in zip(steps, join.traffic, strict=True):
        assert traffic.flows == sum(start <= each.start <= end for each in sent)
        assert traffic.alive == sum(each.start < start and (each.last is None or each.last >= start) for each in sent)
    every = [*steps, *others]
    free = [each for each in sent if not any(start <= each.start <= end for start, end in every)]
    assert sum(gap.traffic.flows for gap in join.gaps) == len(free)
    for gap in join.gaps:
        assert gap.start <= gap.end
        assert gap.traffic.flows == sum(gap.start <= each.start <= gap.end for each in free)
        assert not any(start <= moment <= end for start, end in every for moment in (gap.start, gap.end))
    mine = [each for each in sent if any(start <= each.start <= end for start, end in steps)]
    assert join.total.flows == len(mine) + len(free)
    assert join.elsewhere == len(sent) - len(mine) - len(free)


def test_a_gap_is_exactly_what_lies_between() -> None:
    join = joined([(10, 20), (15, 30), (40, 50)], [], others=[(60, 70)], end=65)
    assert join.gaps == [Gap(0, 9), Gap(31, 39), Gap(51, 59)]
    assert joined([], [], end=5).gaps == [Gap(0, 5)]
    assert joined([(0, 5)], [], end=5).gaps == []


def test_both_ends_of_a_step_belong_to_it_and_not_a_microsecond_more() -> None:
    join = joined([(10, 20)], [flow(number, at) for number, at in enumerate((9, 10, 20, 21))])
    assert join.traffic[0].flows == 2
    assert [gap.traffic.flows for gap in join.gaps] == [1, 1]


def test_parallel_and_nested_steps_each_have_what_began_in_them_and_the_whole_has_it_once() -> None:
    join = joined([(0, 30), (5, 10), (8, 12)], [flow(1, 9), flow(2, 20)])
    assert [traffic.flows for traffic in join.traffic] == [2, 1, 1]
    assert (join.total.flows, join.total.bytes_out) == (2, 20)


def test_steps_that_never_end_do_not_make_a_flow_count_without_bound() -> None:
    join = joined([(number, 1000) for number in range(100)], [flow(number, 500) for number in range(50)], end=2000)
    assert [traffic.flows for traffic in join.traffic] == [0] * (100 - PARALLEL) + [50] * PARALLEL


def test_a_step_is_under_way_however_many_began_and_ended_within_it() -> None:
    """A tool that calls tools: what leaves after them is its own."""
    nested = [(0, 1000), *((number, number + 1) for number in range(1, 100))]
    join = joined(nested, [flow(1, 500)], end=2000)
    assert (join.traffic[0].flows, join.elsewhere) == (1, 0)
    join = joined([(0, 1000), *((10, 20) for _ in range(PARALLEL + 1))], [flow(1, 15), flow(2, 21)], end=2000)
    assert (join.traffic[0].flows, join.traffic[1].flows, join.traffic[2].flows, join.elsewhere) == (1, 0, 1, 0)


def test_what_was_refused_or_found_is_listed_however_much_came_before() -> None:
    sent = [flow(number, 1) for number in range(1000)]
    sent += [flow(2000, 2, refused=True), flow(2001, 3)]
    join = Join([(0, 10)], [(0, 10)], (0, 10))
    join.flows(sent, frozenset({sent[-1].flow_id}))
    assert len(join.traffic[0].listed) == LISTED
    assert join.traffic[0].notable == [sent[-2].flow_id, sent[-1].flow_id]


def test_a_whole_episode_lists_so_many_flows_and_those_that_matter_apart() -> None:
    steps = [(10 * number, 10 * number) for number in range(SHOWN)]
    sent = [flow(10 * number + more, 10 * number) for number in range(SHOWN) for more in range(3)]
    join = joined(steps, [*sent, flow(10**9, 10 * SHOWN - 10, refused=True)], end=10 * SHOWN)
    assert sum(len(traffic.listed) for traffic in join.traffic) + len(join.total.listed) == SHOWN
    assert (join.traffic[-1].flows, len(join.traffic[-1].listed), len(join.traffic[-1].notable)) == (4, 0, 1)


def test_destinations_are_told_apart_up_to_a_bound() -> None:
    sent = [flow(number, 1, label=f"{number}") for number in range(100_050)]
    join = joined([], sent)
    (gap,) = join.gaps
    assert len(gap.traffic.destinations) <= 50_001
    assert gap.traffic.destinations.total() == 100_050


def test_findings_and_refused_packets_are_joined_by_their_own_time() -> None:
    join = joined([(10, 20)], [])
    join.findings([(15, "ssh.unusual-port"), (25, "beacon.timing")])
    join.refusals([(5, 3), (12, 4)])
    assert (join.traffic[0].findings, join.traffic[0].packets) == (1, 4)
    assert [(gap.traffic.findings, gap.traffic.packets) for gap in join.gaps] == [(0, 3), (1, 0)]
    assert (join.total.findings, join.total.packets) == (2, 7)
    assert not Traffic() and Traffic(packets=1)
