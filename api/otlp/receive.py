"""Stores the tool calls among spans as steps: finds the agent and episode of each, and gives reasons for rejections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from api.auth import Caller
from api.otlp.spans import AGENT, ARGUMENTS, CALL_IDS, Span
from egress.model import AGENT_NAME, Step, StepSource
from egress.store.database.handles import Connection
from egress.store.recording import steps
from egress.store.recording.steps import InvalidStepError, StepResult, make

MAX_STEPS = 10_000  # tool calls of one request
MAX_OTHERS = 500  # names of one request, besides attached agents, that are looked up in the records
MAX_REASONS = 3  # different reasons reported for the rejected spans of a request
_NANO = 1_000_000_000


@dataclass(slots=True)
class Received:
    """The outcome of a request: its tool calls by result, and its rejected spans with reasons."""

    counts: Counter[str] = field(default_factory=Counter)  # of tool calls by StepResult; "ignored": other spans
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # reason → number of spans

    def reject(self, why: str) -> None:
        """Count a rejected span, with its reason if there are at most MAX_REASONS different ones."""
        self.rejected += 1
        if why in self.reasons or len(self.reasons) < MAX_REASONS:
            self.reasons[why] = self.reasons.get(why, 0) + 1

    @property
    def message(self) -> str:
        """The reasons of the rejected spans, with their numbers, as one line; empty without rejected spans."""
        text = "; ".join(f"{why} ({count} spans)" if count > 1 else why for why, count in self.reasons.items())
        return f"{text}; and other reasons" if sum(self.reasons.values()) < self.rejected else text


def receive(connection: Connection, caller: Caller, spans: Iterable[Span], *, a_day: int, now: float) -> Received:
    """Store the tool calls among the spans of one request as steps, within a transaction of `database.storing`.

    The episode of a tool call is the one that its span names, else one that another span of its trace names, else the
    trace. An agent may have `a_day` new steps in a day; further ones are rejected. `now` is the time of the request.
    """
    received, agents = Received(), _Agents(connection, caller)
    named: dict[tuple[str, str], str] = {}  # agent and trace → the conversation that one of its spans names
    found: list[tuple[str, Span]] = []
    for span in spans:
        if not span.broken and not span.is_tool:
            received.counts["ignored"] += 1
            names_episode = span.trace_id and _is_name(span.episode) and len(named) < MAX_STEPS
            if names_episode and (agent := agents.find_or_empty(span)):
                named.setdefault((agent, span.trace_id), span.episode)
            continue
        try:
            agent = agents.find(span)
            if len(found) >= MAX_STEPS:
                raise _RejectedError(f"a request may hold at most {MAX_STEPS} tool calls")
        except _RejectedError as rejected:
            received.reject(str(rejected))
            continue
        if span.trace_id and _is_name(span.episode):
            named.setdefault((agent, span.trace_id), span.episode)
        found.append((agent, span))
    steps.adopt(connection, named)  # before `report`, which finds stored steps by their episode
    found_steps = list(_steps(connection, caller, found, named, received, now))
    for report in steps.report(connection, found_steps, a_day) if found_steps else ():
        received.counts[report.result] += 1
        if report.result in (StepResult.CONFLICT, StepResult.TOO_MANY):
            received.reject(report.why)
    return received


def _is_name(episode: str) -> bool:
    """Return True for a valid id of an episode. Any other must not become the episode of a whole trace."""
    return 0 < len(episode) <= steps.MAX_ID and episode.isprintable()


class _RejectedError(Exception):
    """A span is rejected; the text is the reason."""


class _Agents:
    """Finds the agents of the spans of one request; looks each name up once."""

    def __init__(self, connection: Connection, caller: Caller) -> None:
        self._connection, self._caller = connection, caller
        self._known = dict.fromkeys(steps.attached(connection), True)
        self._others = MAX_OTHERS

    def find(self, span: Span) -> str:
        """Return the agent that the span names, else the only agent of the caller's scope. Raises _RejectedError."""
        if span.broken:
            raise _RejectedError(f"a span is rejected: {span.broken}")
        for name, ours in span.agents():
            if not ours and not (self._caller.sees(name) and self._is_known(name)):
                continue  # most frameworks set names that are not agents of egress
            if not self._caller.sees(name):
                raise _RejectedError(f"agent {name[:64]!a} is outside the scope of this token")
            if not self._is_known(name):
                raise _RejectedError(f"agent {name[:64]!a} is not known: neither attached nor recorded")
            return name
        if len(self._caller.agents) == 1 and self._is_known(self._caller.agents[0]):
            return self._caller.agents[0]
        raise _RejectedError(f"a span names no agent: set OTEL_RESOURCE_ATTRIBUTES={AGENT}=NAME")

    def find_or_empty(self, span: Span) -> str:
        """Return the agent as `find` does; empty if it would raise."""
        try:
            return self.find(span)
        except _RejectedError:
            return ""

    def _is_known(self, name: str) -> bool:
        """Return True if an agent is attached or recorded. After MAX_OTHERS look-ups in the records: False."""
        if name not in self._known and self._others:
            self._others -= 1
            self._known[name] = AGENT_NAME.fullmatch(name) is not None and steps.is_known(self._connection, name)
        return self._known.get(name, False)


def _steps(
    connection: Connection,
    caller: Caller,
    found: list[tuple[str, Span]],
    named: dict[tuple[str, str], str],
    received: Received,
    now: float,
) -> Iterator[Step]:
    unnamed = {(agent, span.trace_id) for agent, span in found if span.trace_id and not span.episode}
    stored = steps.conversations(connection, unnamed - named.keys())
    for agent, span in found:
        trace = (agent, span.trace_id)
        episode = span.episode or named.get(trace) or stored.get(trace) or span.trace_id
        try:
            yield make(
                agent, episode=episode, id=span.span_id, tool=span.tool, summary=span.first(ARGUMENTS),
                start=span.start / _NANO, end=span.end / _NANO if span.end else None, source=StepSource.OTLP,
                call_id=span.first(CALL_IDS), trace_id=span.trace_id, span_id=span.span_id,
                reporter=caller.actor.name, now=now,
            )  # fmt: skip
        except InvalidStepError as wrong:
            received.reject(f"a span is rejected: {wrong}")
