"""DNS on one flow: the agent's queries, and the answers that belong to them.

An answer counts only if it comes back on the flow of a query with its id, name and type. What the agent sends and we
cannot read a resolver may (bytes after the message, an update, two questions), so it is stated too. Whether the
resolver may be asked at all is the rules' business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from egress.dissection.events import DnsAnswered, DnsAsked
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire import dns

MAX_OPEN = 64  # queries of a flow that wait for an answer; past it the oldest is given up


class Lookup:
    """Messages in, events out. `seen`: at least one query could be read."""

    __slots__ = ("_open", "_streams", "seen")

    def __init__(self) -> None:
        self.seen = False
        self._open: OrderedDict[tuple[int, str, int], None] = OrderedDict()
        self._streams: dict[Direction, dns.DnsStream | None] = {side: dns.DnsStream() for side in Direction}

    def segment(self, direction: Direction, data: bytes) -> Iterator[DnsAsked | DnsAnswered]:
        """The next bytes of one direction over TCP; after one wrong length nothing more can be read of it."""
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
        """One DNS message; an answer that is none says nothing."""
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
        try:
            query = dns.query(message)
        except MalformedError:
            return DnsAsked(Direction.OUT, None)
        self.seen = True
        self._open[query.id, query.name, query.rtype] = None
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
        return DnsAsked(Direction.OUT, query)
