"""beacon.timing: what it finds, what it leaves alone, what it costs. All draws are seeded."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.dissection.events import Burst, Opened
from egress.errors import InputError
from egress.model import EVIDENCE_BYTES, ICMP, TCP, UDP, Action, Direction, Effect, Finding, Rule, Severity
from signatures.beacon_timing import MAX_AGENTS, MIN_GAPS, ONCE, QUIET, RETURNED, BeaconTiming
from tests.examples import examples
from tests.signatures.conftest import Flow
from tests.traffic import AGENT4, Step, agent, engine, play, udp

SERVER = bytes([203, 0, 113, 9])
LOCAL = bytes([10, 0, 0, 2])


def beats(period: float, n: int, jitter: float = 0.2, start: float = 1e9, seed: int = 1) -> list[float]:
    """`n` moments with gaps of period ± jitter."""
    rng = random.Random(seed)
    return list(accumulate((period * (1 + jitter * (2 * rng.random() - 1)) for _ in range(n - 1)), initial=start))


def opens(signature: BeaconTiming, moments: Iterable[float], **flow: object) -> list[Finding]:
    """A new flow at each moment, answered 20 ms later."""
    made = (signature.see(Opened(ts, ts + 0.02), Flow(**flow)) for ts in moments)  # type: ignore[arg-type]
    return [finding for finding in made if finding is not None]


def bursts(signature: BeaconTiming, moments: Iterable[float], flow: Flow) -> list[Finding]:
    return [finding for ts in moments if (finding := signature.see(Burst(ts), flow)) is not None]


def addresses(seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    while True:
        yield rng.randbytes(4)


# --- what it finds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1.0, 10.0, 60.0, 300.0])
def test_a_jittered_beacon_is_found_once(period: float) -> None:
    findings = opens(BeaconTiming(), beats(period, 24))
    assert len(findings) == 1
    finding = findings[0]
    assert (finding.signature, finding.severity) == ("beacon.timing", Severity.MEDIUM)
    assert (finding.technique, finding.effect) == ("T1071", Effect.DESTINATION)


def test_the_finding_says_what_when_and_how_sure() -> None:
    finding = opens(BeaconTiming(), beats(1.0, 24))[0]
    said = re.fullmatch(
        r"The agent opened (\d+) connections to 203\.0\.113\.9:443/tcp about every (\d\.\d) s "
        r"\(jitter CV (0\.\d\d), E = (\d\.\de\d+) against 1\.0e4 needed\): an automated beacon; .*beacon\.timing.*\.",
        finding.summary,
    )
    assert said is not None, finding.summary
    assert 10 <= int(said[1]) <= 20 and 0.8 < float(said[2]) < 1.2 and 0.05 < float(said[3]) < 0.2
    assert float(said[4]) >= 1e4
    evidence = dict(part.split("=") for part in finding.evidence.decode().split())
    assert int(evidence["gaps"]) == int(said[1]) - 1 == len(evidence["last_gaps_s"].split(","))
    assert {"period_s", "cv", "k", "E", "needed", "keys", "alpha"} <= evidence.keys()


def test_a_demo_beacon_is_found_within_half_a_minute() -> None:
    for seed in range(40):
        assert opens(BeaconTiming(), beats(1.0, 28, seed=seed)), seed


def test_ipv6_and_udp_are_watched() -> None:
    findings = opens(BeaconTiming(), beats(5, 24), remote=bytes(15) + b"\x01", proto=UDP, rport=443)
    assert "[::1]:443/udp" in findings[0].summary


def test_changing_the_port_does_not_hide_it() -> None:
    signature, findings = BeaconTiming(), []
    for i, ts in enumerate(beats(5, 24)):
        findings += opens(signature, [ts], rport=2000 + i)
    assert len(findings) == 1
    assert "203.0.113.9 on changing ports" in findings[0].summary


def test_other_ports_of_the_same_server_do_not_hide_it() -> None:
    signature, rng = BeaconTiming(), random.Random(3)
    moments = [(ts, 4433) for ts in beats(10, 24)] + [(1e9 + 240 * rng.random(), 443) for _ in range(30)]
    findings = [finding for ts, rport in sorted(moments) for finding in opens(signature, [ts], rport=rport)]
    assert [":4433/tcp" in finding.summary for finding in findings] == [True]


def test_a_beacon_after_irregular_traffic() -> None:
    rng, signature = random.Random(4), BeaconTiming()
    history = list(accumulate((rng.expovariate(0.05) for _ in range(60)), initial=1e9))
    assert opens(signature, history) == []
    assert len(opens(signature, beats(10, 40, start=history[-1] + 30))) == 1


def test_bursts_inside_one_flow() -> None:
    signature, flow = BeaconTiming(), Flow()
    opened = signature.see(Opened(1e9, 1e9 + 0.02), flow)
    findings = bursts(signature, beats(5, 24, start=1e9 + 0.1), flow)
    assert opened is None and len(findings) == 1
    assert "in one flow to 203.0.113.9:443/tcp about every" in findings[0].summary
    assert findings[0].effect is Effect.DESTINATION


def test_bursts_of_different_flows_are_not_mixed() -> None:
    signature, flows = BeaconTiming(), [Flow(lport=port) for port in range(24)]
    for ts, flow in zip(beats(5, 24), flows, strict=True):
        assert bursts(signature, [ts], flow) == []


# --- what it leaves alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [
        {"proto": UDP, "rport": 53},
        {"proto": UDP, "rport": 853},
        {"proto": ICMP, "rport": 0},
        {"outbound": False},
    ],
)
def test_excluded_flows(flow: dict[str, object]) -> None:
    signature = BeaconTiming()
    assert opens(signature, beats(5, 40), **flow) == []
    assert bursts(signature, beats(5, 40), Flow(**flow)) == []  # type: ignore[arg-type]


def test_port_53_over_tcp_is_no_excuse() -> None:
    assert opens(BeaconTiming(), beats(5, 24), rport=53)


def test_keepalives_of_an_ssh_flow_that_a_rule_allows() -> None:
    allowed = Rule("r1", Action.ACCEPT, app="ssh")
    assert bursts(BeaconTiming(), beats(2, 60, 0.01), Flow(rport=22, app="ssh", rule=allowed)) == []
    assert bursts(BeaconTiming(), beats(2, 60, 0.01), Flow(rport=22, app="ssh")) != []


@pytest.mark.parametrize("gap", [0.001, 0.02, 0.09, 0.11, 0.3, 0.4])
def test_a_busy_loop_is_no_beacon(gap: float) -> None:
    """`for i in …; do curl …; done`: even gaps, of the length of the answer."""
    assert opens(BeaconTiming(), beats(gap, 400, 0.05)) == []


def test_a_busy_loop_does_not_cover_a_beacon() -> None:
    signature = BeaconTiming()
    loop = beats(0.3, 60, 0.05)
    assert opens(signature, loop) == []
    assert opens(signature, beats(1.0, 40, start=loop[-1] + 1)) != []


def test_a_page_load_is_no_beacon() -> None:
    rng = random.Random(5)
    assert opens(BeaconTiming(), sorted(1e9 + rng.random() for _ in range(100))) == []


def test_few_equal_gaps_are_not_enough() -> None:
    assert opens(BeaconTiming(), beats(60, 6, 0)) == []
    assert len(opens(BeaconTiming(), beats(60, 8, 0))) == 1
    lenient = 0.9  # a level that four equal gaps would reach
    assert opens(BeaconTiming(lenient), beats(60, MIN_GAPS, 0)) == []
    assert len(opens(BeaconTiming(lenient), beats(60, MIN_GAPS + 1, 0))) == 1


def test_an_agent_at_work_is_no_beacon() -> None:
    """Thirty destinations, turns with lognormal(0.5) gaps of 2 to 60 s, each turn up to four connections."""
    findings = []
    for seed in range(4):
        rng, signature = random.Random(seed), BeaconTiming()
        for host in range(30):
            mean, ts = rng.uniform(2, 60), 1e9
            for _ in range(40):
                ts += mean * rng.lognormvariate(0, 0.5)
                visit = sorted([ts, *(ts + 0.2 * rng.random() for _ in range(rng.randrange(4)))])
                findings += opens(signature, visit, remote=bytes([198, 51, 100, host]))
    assert findings == []


# --- alarm level, repetition ------------------------------------------------------------------------------


def needed(finding: Finding) -> float:
    said = re.search(r"against (\S+) needed", finding.summary)
    assert said is not None
    return float(said[1])


def test_the_level_follows_the_keys_watched_of_this_agent() -> None:
    signature, rng = BeaconTiming(alpha=1e-2), random.Random(6)
    for remote, _ in zip(addresses(7), range(200), strict=False):
        opens(signature, [1e9, 1e9 + 5 + 50 * rng.random()], remote=remote)
    busy = opens(signature, beats(10, 30))
    quiet = opens(signature, beats(10, 30), agent="b")
    assert needed(busy[0]) == pytest.approx((2 * 200 + 2) / 1e-2, rel=0.05)  # two keys a destination
    assert needed(quiet[0]) == 1e3


def test_destinations_met_once_do_not_raise_the_level() -> None:
    signature = BeaconTiming()
    for remote, _ in zip(addresses(8), range(500), strict=False):
        opens(signature, [1e9], remote=remote)
    assert needed(opens(signature, beats(10, 30))[0]) == 1e4


def test_a_beacon_that_goes_on_is_said_again_after_a_while() -> None:
    moments = beats(10, 400)
    findings = opens(BeaconTiming(), moments)
    assert 4 <= len(findings) <= (moments[-1] - moments[0]) / QUIET + 1


def test_a_finding_on_one_port_does_not_silence_another() -> None:
    signature = BeaconTiming()
    assert len(opens(signature, beats(10, 30), rport=1)) == 1
    assert len(opens(signature, beats(10, 30, start=1e9 + 310), rport=2)) == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, float("nan")])
def test_alpha_must_be_a_probability(alpha: float) -> None:
    with pytest.raises(InputError, match="beacon_alpha"):
        BeaconTiming(alpha=alpha)


# --- hostile input ----------------------------------------------------------------------------------------


def test_touching_many_destinations_does_not_reset_a_beacon() -> None:
    """1500 fresh destinations between any two beats."""
    signature, fresh, findings = BeaconTiming(), addresses(9), []
    for ts in beats(60, 16, 0.1):
        for i in range(1500):
            opens(signature, [ts + 0.01 * i], remote=next(fresh))
        findings += opens(signature, [ts])
    assert len(findings) == 1


def test_coming_back_to_many_destinations_does_not_reset_a_beacon() -> None:
    signature, fresh, findings = BeaconTiming(), addresses(14), []
    for ts in beats(60, 16, 0.1):
        findings += opens(signature, [ts])
        for i in range(200):
            opens(signature, [ts + 0.1 * i, ts + 0.1 * i + 5], remote=next(fresh))
    assert len(findings) == 1


def test_a_destination_in_use_is_not_forgotten() -> None:
    """Even one without any evidence, while fewer than RETURNED - LOOK other keys are used between its visits."""
    signature, fresh, rng, ts = BeaconTiming(), addresses(16), random.Random(17), 1e9
    for _ in range(20):
        ts += 20 * rng.lognormvariate(0, 1.5)
        opens(signature, [ts])
        for i in range(100):
            opens(signature, [ts + 0.1 * i, ts + 0.1 * i + 5], remote=next(fresh))
    series = signature._agents["a"]._returned[(SERVER, TCP, 443)]
    estimate = series.rhythm.estimate(-math.inf, 19, 0)
    assert estimate is not None and estimate.n == 19


def test_half_regular_destinations_left_behind_do_not_keep_a_beacon_out() -> None:
    """The table is full of keys with evidence that are never used again; each beat meets one more."""
    signature, fresh, findings = BeaconTiming(), addresses(15), []
    for remote, _ in zip(fresh, range(RETURNED // 2), strict=False):
        opens(signature, beats(60, 5, 0, start=1e9 - 1000), remote=remote)
    for ts in beats(60, 22, 0.1):
        findings += opens(signature, [ts])
        opens(signature, [ts + 10, ts + 20], remote=next(fresh))
    assert len(findings) == 1


def test_busy_destinations_do_not_keep_a_beacon_out() -> None:
    signature, fresh, rng, findings = BeaconTiming(), addresses(10), random.Random(11), []
    busy = [next(fresh) for _ in range(2 * RETURNED)]
    for ts in beats(60, 22, 0.1):
        for remote in rng.sample(busy, 40):
            opens(signature, [ts + 0.2, ts + 0.2 + 20 * rng.random()], remote=remote)
        findings += opens(signature, [ts])
    assert len(findings) == 1


def test_state_is_bounded() -> None:
    signature, rng = BeaconTiming(), random.Random(12)
    for remote, i in zip(addresses(13), range(6000), strict=False):
        opens(signature, [i * 0.01, i * 0.01 + 0.5] if rng.random() < 0.2 else [i * 0.01], remote=remote)
    watch = signature._agents["a"]
    assert ONCE - 10 < len(watch._once) <= ONCE
    assert len(watch._returned) == RETURNED
    for i in range(MAX_AGENTS + 50):
        opens(signature, [1.0], agent=str(i))
    assert len(signature._agents) == MAX_AGENTS


@given(st.lists(st.tuples(st.floats(), st.booleans(), st.integers(0, 3)), max_size=80))
@settings(max_examples=examples(80))
def test_no_sequence_of_times_raises(events: list[tuple[float, bool, int]]) -> None:
    signature, flows = BeaconTiming(), [Flow(rport=port) for port in range(4)]
    for ts, burst, index in events:
        finding = signature.see(Burst(ts) if burst else Opened(ts, ts), flows[index])
        assert finding is None or len(finding.evidence) <= EVIDENCE_BYTES


@given(st.lists(st.sampled_from([-100.0, -1.0, -0.01, 0.0, 0.01, 0.5, 1.0, 1.0, 1.0]), max_size=120))
@settings(max_examples=examples(60))
def test_a_clock_that_jumps_does_not_raise(steps: list[float]) -> None:
    signature, flow = BeaconTiming(), Flow()
    for ts in accumulate(steps, initial=1e9):
        signature.see(Opened(ts, ts + 0.02), flow)
        signature.see(Burst(ts), flow)


# --- Datagrams ------------------------------------------------------------------------------------------------


def datagrams(remote: str, period: float, count: int, *, answered: bool, ports: bool = False) -> list[str]:
    """Play one datagram every `period` seconds, from one port or from many, and return the findings."""
    steps = []
    for number in range(count):
        sport = 45000 + number * ports
        steps.append(Step(udp(AGENT4, remote, sport, 8125, b"beat"), Direction.OUT, period))
        if answered:
            steps.append(Step(udp(remote, AGENT4, 8125, sport, b"ok"), Direction.IN, 0.01))
    return play(engine(only="beacon.timing".__eq__), agent(), steps).signatures


@pytest.mark.parametrize("ports", [False, True])
@pytest.mark.parametrize("remote", ["255.255.255.255", "10.77.255.255", "224.0.0.251", "192.0.2.14"])
def test_datagrams_that_nothing_answers_are_no_beacon(remote: str, ports: bool) -> None:
    assert datagrams(remote, 10.0, 150, answered=False, ports=ports) == []


@pytest.mark.parametrize("ports", [False, True])
def test_answered_datagrams_are_one(ports: bool) -> None:
    assert datagrams("192.0.2.14", 10.0, 12, answered=True, ports=ports) == ["beacon.timing"]
