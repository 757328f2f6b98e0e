"""DNS at its port: the agent's queries, and the answers that belong to them.

An answer counts only if it comes back on the flow of a query with its id, name and type. A resolver may be able to read
messages that `egress.wire.dns` cannot (bytes after the message, an update, two questions), so such a message of the
agent is an event, too (`DnsAsked` without a query). The rules decide whether the resolver may be asked at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import MappingProxyType

from egress.dissection.events import DnsAnswered, DnsAsked
from egress.dissection.framings.dns import DnsDatagrams, DnsMessages
from egress.dissection.protocol import Fact, Form, Identified, PortProtocol
from egress.errors import MalformedError
from egress.model import TCP, UDP, App, Direction
from egress.wire import dns

MAX_OPEN = 64  # queries of a flow that wait for an answer; past it the oldest is given up


class Dns(PortProtocol):
    """DNS over UDP and TCP. The flow is identified as DNS by the first query that can be read."""

    app = App.DNS
    framings = MappingProxyType({TCP: DnsMessages, UDP: DnsDatagrams})
    forms = (Form.STREAM, Form.DATAGRAM)
    port = 53

    def __init__(self) -> None:
        self._lookup = Lookup()

    def segment(self, direction: Direction, data: bytes) -> list[Fact]:
        return self._stated(self._lookup.segment(direction, data))

    def datagram(self, direction: Direction, data: bytes) -> list[Fact]:
        return self._stated(self._lookup.message(direction, data))

    def _stated(self, events: Iterable[DnsAsked | DnsAnswered]) -> list[Fact]:
        """Return the events as facts, each readable query with an `Identified` before it."""
        facts: list[Fact] = []
        for event in events:
            if isinstance(event, DnsAsked) and event.query is not None:
                self.asked = True
                facts.append(Identified(App.DNS, event.query.name))
            facts.append(event)
        return facts


class Lookup:
    """Turns the DNS messages of one flow into events. `seen`: True once a query could be read."""

    __slots__ = ("_open", "_streams", "seen")

    def __init__(self) -> None:
        self.seen = False
        self._open: OrderedDict[tuple[int, str, int], None] = OrderedDict()
        self._streams: dict[Direction, dns.DnsStream | None] = {side: dns.DnsStream() for side in Direction}

    def segment(self, direction: Direction, data: bytes) -> Iterator[DnsAsked | DnsAnswered]:
        """Yield the events in the next bytes of one direction over TCP.

        After a wrong length prefix the rest of that direction is not read.
        """
        stream = self._streams[direction]
        if stream is None:
            return
        try:
            messages = stream.feed(data)
        except MalformedError:
            self._streams[direction] = None
            if direction is Direction.OUT:
                yield DnsAsked(direction, None)
            return
        for message in messages:
            yield from self.message(direction, message)

    def message(self, direction: Direction, message: bytes) -> Iterator[DnsAsked | DnsAnswered]:
        """Yield the event for one DNS message; none for an incoming one that answers no query of this flow."""
        if direction is Direction.OUT:
            yield self._asked(message)
            return
        try:
            answer = dns.answer(message)
        except MalformedError:
            return
        if (answer.id, answer.name, answer.rtype) in self._open:
            yield DnsAnswered(direction, answer)

    def _asked(self, message: bytes) -> DnsAsked:
        """Return the event for a message of the agent; note a readable query, to recognise its answer."""
        try:
            query = dns.query(message)
        except MalformedError:
            return DnsAsked(Direction.OUT, None, message)
        self.seen = True
        self._open[query.id, query.name, query.rtype] = None
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return DnsAsked(Direction.OUT, query, message)
