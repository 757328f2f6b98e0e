"""beacon.timing: the agent calls one destination again and again, more regularly than work.

It watches the starts of answered flows, by destination address and port and by destination address alone (to find a
beacon that changes its port), and the bursts in which the agent sends first inside one long flow. The test, its null
hypothesis and the definition of an event are in `egress.engine.window`. A key alarms when its E reaches M / alpha,
where M is the number of keys watched for this agent so far (met at least twice): of M keys inside the null hypothesis,
at any rates, the probability that one ever alarms is at most alpha for the first `KEYS_FLOOR` keys and at most
alpha (1 + ln(M / KEYS_FLOOR)) for more, as far as `egress.engine.window` proves or simulates it.

Timing shows "automated", never "malicious". So this finds health checks, monitoring polls and NTP as well as
implants: a person who knows the poll exempts it in the rule that allows it. It does not find jitter of 80 % or
more of the period (CV 0.385: inside the null), a beacon mixed with other traffic to the same address, or one that never
uses an address twice. The number of gaps it needs (median at E >= 10^4, subtractive jitter): 7 at 10 % jitter, 10 at
20 %, 16 to 18 at 37 %, 26 to 35 at 50 %; bursts once a second need more (14 at 20 %, 45 at 37 %, not in 60 at 50 %),
because 0.4 s of each such gap is dead time. Left out:

* datagrams that nothing answers (broadcast, multicast, a server that is down): they carry no commands.
* UDP to ports 53 and 853: resolvers retry by timers; DNS is judged by its own signatures.
* ICMP: ping sends one echo a second by design, so timing means nothing there.
* bursts inside an SSH flow that a rule allows: ServerAliveInterval is regular, and the rule names the server.
* bursts that the bytes show to be a keep-alive: the ping of a protocol, or a query that tests a connection
  (`egress.wire.keepalive`), as long as it gets nothing but its answer.

Two findings refuse nothing (effect `none`). Polls under a rule that names the destination: somebody knows it. And
requests in a flow that repeat themselves byte for byte and get the same answer each time: no command is in them. Once
one of these gets another answer, the rhythm of all of them refuses the flow.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from ipaddress import ip_address
from itertools import islice

from egress.dissection.events import Burst, Event, Opened, Turn
from egress.engine.signature import FlowView, Signature, SignatureSettings
from egress.engine.window import WINDOWS, Estimate, Rhythm
from egress.errors import InputError
from egress.limits import Limits
from egress.model import EVIDENCE_BYTES, ICMP, ICMPV6, UDP, App, Effect, Finding, Rule, Severity, protocol_name

KEYS_FLOOR = 10  # the least M: the first keys must not be judged as if no others followed
# For E alone 5 equal gaps would be enough, which a person's retries can make. Elastic's beaconing transform needs 6
# periods (min_number_periods), RITA 4 gaps, its predecessor 23 connections.
MIN_GAPS = 6
# Seconds. A faster loop waits for answers, not for a timer. RITA uses whole seconds and drops gaps of zero, so its
# shortest beacon has 1 s; half of that leaves room for 1 s with any jitter that can be found.
MIN_PERIOD = 0.5
QUIET = 600.0  # seconds without a second finding of the same key, which then needs new gaps
EVERYWHERE = frozenset({"any", "0.0.0.0/0", "::/0"})
RESOLVER_PORTS = frozenset({53, 853})

# Memory: 2 MiB per agent at most, and up to 4.4 KiB in each flow that has bursts. An agent that wants its own beacon
# forgotten must, between any two beats, reach ONCE / 2 fresh destinations (two keys each) or twice each of
# (RETURNED - LOOK) / 2 others; once the beacon has evidence, the others would have to be more regular than it is.
# That is dearer and louder than jitter, which it can add anyway.
MAX_AGENTS = 1024
ONCE = 4096
RETURNED = 512
LOOK = 64  # of the keys longest unused, the one with the least evidence goes

Key = tuple[bytes, int, int]  # address, protocol, port; protocol and port are -1 where the whole address is meant


class _Series:
    """The test of one key's times, and the time of the key's last finding."""

    __slots__ = ("found", "rhythm", "windows")

    def __init__(self, ts: float, windows: tuple[float, ...] = WINDOWS) -> None:
        self.windows = windows
        self.rhythm = Rhythm(ts, windows)
        self.found = -math.inf

    def renew(self, ts: float) -> None:
        """Begin the test anew after a finding at `ts`."""
        self.rhythm = Rhythm(ts, self.windows)
        self.found = ts


class _Watch:
    """The keys of one agent, in bounded tables: those met once, and those that returned, with their series."""

    __slots__ = ("_once", "_returned", "keys")

    def __init__(self) -> None:
        self.keys = 0  # M: keys met more than once so far; forgotten and renewed ones count again
        self._once: OrderedDict[Key, float] = OrderedDict()
        self._returned: OrderedDict[Key, _Series] = OrderedDict()

    def meet(self, key: Key, ts: float) -> _Series | None:
        """Add a time to a key; return its series, None while its times are one event (within the shortest window)."""
        series = self._returned.get(key)
        if series is not None:
            self._returned.move_to_end(key)
            series.rhythm.add(ts)
            return series
        first = self._once.pop(key, ts)
        if ts - first < WINDOWS[0]:
            self._once[key] = min(first, ts)
            if len(self._once) > ONCE:
                self._once.popitem(last=False)
            return None
        if len(self._returned) >= RETURNED:
            oldest = islice(self._returned.items(), LOOK)
            del self._returned[min(oldest, key=lambda item: item[1].rhythm.log_e)[0]]
        series = self._returned[key] = _Series(first)
        series.rhythm.add(ts)
        self.keys += 1
        return series


class BeaconTiming(Signature):
    """Finds regular connections, and regular bursts in a flow (see the module's docstring).

    `alpha`: the accepted probability of a false alarm per agent; `idle_gap`: as in Limits, seconds.
    """

    id = "beacon.timing"
    severity = Severity.MEDIUM
    technique = "T1071"  # Application Layer Protocol: command and control hidden among ordinary connections
    listens = (Opened, Burst)

    def __init__(self, alpha: float = 1e-3, idle_gap: float = Limits().idle_gap) -> None:
        if not 0 < alpha < 1:
            raise InputError(f"beacon_alpha: {alpha} must be above 0 and below 1")
        self._alpha = alpha
        self._burst_windows = tuple(max(window, idle_gap) for window in WINDOWS)
        self._agents: OrderedDict[str, _Watch] = OrderedDict()

    @classmethod
    def configured(cls, config: SignatureSettings) -> BeaconTiming:
        """Make an instance with `beacon_alpha` and the idle gap of a config."""
        return cls(config.beacon_alpha, config.limits.idle_gap)

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not flow.outbound or flow.proto in (ICMP, ICMPV6):
            return None
        if flow.proto == UDP and flow.server_port in RESOLVER_PORTS:
            return None
        if isinstance(event, Opened) and math.isfinite(event.start):
            return self._opened(event.start, flow)
        if isinstance(event, Burst) and math.isfinite(event.ts) and event.turn is not Turn.PING:
            return self._burst(event.ts, flow, event.turn)
        return None

    def _watch(self, agent: str) -> _Watch:
        """Return the keys of an agent; the agent longest unused is forgotten beyond MAX_AGENTS."""
        watch = self._agents.setdefault(agent, _Watch())
        self._agents.move_to_end(agent)
        if len(self._agents) > MAX_AGENTS:
            self._agents.popitem(last=False)
        return watch

    def _opened(self, ts: float, flow: FlowView) -> Finding | None:
        """Add a flow's start to the series of its address and port, and of its address. Returns a Finding or None."""
        watch = self._watch(flow.agent)
        port = watch.meet((flow.remote, flow.proto, flow.rport), ts)
        address = watch.meet((flow.remote, -1, -1), ts)
        for series, where in ((port, _name(flow)), (address, f"{ip_address(flow.remote)} on changing ports")):
            estimate = self._proof(series, watch, ts)
            if estimate is not None:
                # One finding for one beacon: its other key has the same times.
                finding = self._finding(estimate, watch, f"opened {estimate.n + 1} connections to {where}", flow)
                for renewed in (port, address):
                    if renewed is not None:
                        renewed.renew(ts)
                        watch.keys += 1
                return finding
        return None

    def _burst(self, ts: float, flow: FlowView, turn: Turn) -> Finding | None:
        """Test a burst in a flow; the state of the test is in the flow's scratch. Returns a Finding or None."""
        if flow.app == App.SSH and flow.rule is not None:
            return None
        watch, state = self._watch(flow.agent), flow.scratch(self.id)
        if turn is not Turn.OTHER:
            finding = self._polled(ts, flow, turn, watch, state)
            if finding is not None or turn is Turn.REPEAT:
                return finding
        series = _series(state, "series", ts, watch, self._burst_windows)
        estimate = self._proof(series, watch, ts)
        if series is None or estimate is None:
            return None
        what = f"sent first {estimate.n + 1} times in one flow to {_name(flow)}"
        finding = self._finding(estimate, watch, what, flow)
        series.renew(ts)
        watch.keys += 1
        return finding

    def _polled(self, ts: float, flow: FlowView, turn: Turn, watch: _Watch, state: dict[str, object]) -> Finding | None:
        """Test a request that equals the one before. Returns a Finding or None.

        While each gets the same answer, there is one finding at most, and it refuses nothing.
        """
        series = _series(state, "polls", ts, watch, self._burst_windows)
        estimate = self._proof(series, watch, ts)
        suspected = turn is Turn.REPEAT
        if series is None or estimate is None or (suspected and "suspected" in state):
            return None
        what = f"sent the same request {estimate.n + 1} times in one flow to {_name(flow)}"
        finding = self._finding(estimate, watch, what, flow)
        if suspected:
            state["suspected"] = True
            return replace(finding, severity=Severity.LOW, effect=Effect.NONE)
        series.renew(ts)
        watch.keys += 1
        return finding

    def _level(self, watch: _Watch) -> float:
        """Return ln(M / alpha), which ln E must reach."""
        return math.log(max(watch.keys, KEYS_FLOOR) / self._alpha)

    def _proof(self, series: _Series | None, watch: _Watch, ts: float) -> Estimate | None:
        """Return the evidence of a series; None below the level, and for QUIET seconds after its last finding."""
        if series is None or 0 <= ts - series.found < QUIET:  # the clock may have been set back
            return None
        return series.rhythm.estimate(self._level(watch), MIN_GAPS, MIN_PERIOD)

    def _finding(self, estimate: Estimate, watch: _Watch, what: str, flow: FlowView) -> Finding:
        """Make the finding of a series; `what` is the middle of its summary. A named destination is not refused."""
        period, cv, needed = _seconds(estimate.period), estimate.cv, _power(self._level(watch))
        e = _power(estimate.log_e)
        summary = (
            f"The agent {what} about every {period} (jitter CV {cv:.2f}, E = {e} against {needed} needed): an automated"
            " beacon; if it is a poll you know, exempt beacon.timing in the rule that allows it."
        )
        gaps = ",".join(f"{gap:.3f}" for gap in estimate.gaps)
        evidence = (
            f"gaps={estimate.n} period_s={estimate.period:.3f} cv={cv:.3f} k={estimate.shape:.3g} E={e} needed={needed}"
            f" keys={max(watch.keys, KEYS_FLOOR)} alpha={self._alpha:g} last_gaps_s={gaps}"
        )
        effect = Effect.NONE if _is_named(flow.rule) else Effect.DESTINATION
        return Finding(self.id, self.severity, summary, evidence.encode()[:EVIDENCE_BYTES], self.technique, effect)


def _is_named(rule: Rule | None) -> bool:
    """Return True for an allow rule that names where its flows go: somebody knows the destination."""
    return rule is not None and rule.destination not in EVERYWHERE


def _series(
    state: dict[str, object], name: str, ts: float, watch: _Watch, windows: tuple[float, ...]
) -> _Series | None:
    """Add a time to one of a flow's series, and return it; None while it has had one time only."""
    series = state.get(name)
    if not isinstance(series, _Series):
        first = state.get(f"first of {name}")
        if not isinstance(first, float) or ts <= first:
            state[f"first of {name}"] = ts
            return None
        series = state[name] = _Series(first, windows)
        watch.keys += 1
    series.rhythm.add(ts)
    return series


def _name(flow: FlowView) -> str:
    """Write the other side of a flow as `203.0.113.9:443/tcp`."""
    address = ip_address(flow.remote)
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{flow.rport}/{protocol_name(flow.proto)}"


def _seconds(value: float) -> str:
    """Write seconds, with one decimal place below 100."""
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _power(log_value: float) -> str:
    """Write a number of any size, given as its natural logarithm, as `2.3e4`."""
    exponent, fraction = divmod(log_value / math.log(10), 1)
    digits = f"{10**fraction:.1f}"
    return f"1.0e{int(exponent) + 1}" if digits == "10.0" else f"{digits}e{int(exponent)}"
