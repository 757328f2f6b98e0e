"""The parts of a span that are used, and the test for a tool call.

GenAI semantic conventions (github.com/open-telemetry/semantic-conventions-genai, status Development): a tool call is a
span whose `gen_ai.operation.name` is `execute_tool`, named `execute_tool {tool}`, with gen_ai.tool.name,
gen_ai.tool.call.id and, by opt-in, gen_ai.tool.call.arguments. They do not define the conversation as an attribute of
such a span (issue 507): it is one of the spans around it, in the same trace. The lists below add the attributes of
older and other instrumentations, most specific first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

TOOL_NAMES = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name")
CALL_IDS = ("gen_ai.tool.call.id", "tool_call.id")
ARGUMENTS = ("gen_ai.tool.call.arguments", "input.value", "traceloop.entity.input")
EPISODES = ("egress.episode", "gen_ai.conversation.id", "session.id", "gen_ai.thread.id")
AGENTS = ("gen_ai.agent.id", "gen_ai.agent.name", "service.instance.id")  # used if the value is the name of an agent
AGENT = "egress.agent"
OPERATION, EXECUTE = "gen_ai.operation.name", "execute_tool"
KINDS = {"traceloop.span.kind": "tool", "openinference.span.kind": "tool"}  # OpenLLMetry, OpenInference

WANTED = frozenset({*TOOL_NAMES, *CALL_IDS, *ARGUMENTS, *EPISODES, *AGENTS, AGENT, OPERATION, *KINDS})
MAX_VALUE = 8192  # characters kept of an attribute


class MalformedSpanError(Exception):
    """The request is not valid trace data; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Span:
    """One span. `attributes` has the WANTED ones as text: the span's own, else the resource's."""

    name: str
    trace_id: str  # lower-case hex digits
    span_id: str
    start: int  # nanoseconds since the epoch
    end: int  # 0: running
    attributes: Mapping[str, str]
    broken: str = ""  # the reason why this span cannot be used, although its request is valid

    @property
    def is_tool(self) -> bool:
        """True if the span is a tool call."""
        operation = self.attributes.get(OPERATION)
        if operation is not None:
            return operation == EXECUTE
        kinds = any(self.attributes.get(name, "").lower() == kind for name, kind in KINDS.items())
        return kinds or self.name.split(" ")[0] == EXECUTE or TOOL_NAMES[0] in self.attributes

    @property
    def tool(self) -> str:
        """The name of the tool; without an attribute for it, the span's name without `execute_tool`."""
        return self.first(TOOL_NAMES) or self.name.removeprefix(EXECUTE).strip() or self.name

    @property
    def episode(self) -> str:
        """The episode that the span itself or its resource names; empty without one."""
        return self.first(EPISODES)

    def first(self, names: tuple[str, ...]) -> str:
        """Return the first non-empty value of these attributes; empty if there is none."""
        return next((text for name in names if (text := self.attributes.get(name))), "")

    def agents(self) -> Iterator[tuple[str, bool]]:
        """Yield the value of `egress.agent` with True; without that attribute the values of AGENTS, each with False."""
        if self.attributes.get(AGENT):
            yield self.attributes[AGENT], True
            return
        for name in AGENTS:
            if self.attributes.get(name):
                yield self.attributes[name], False
