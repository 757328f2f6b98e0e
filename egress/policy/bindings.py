"""Bindings of names to addresses, from the DNS answers that an agent itself received.

The operator of a resolver controls the bindings, so allow DNS only to resolvers that you trust. Several names may share
an address, so the name is checked again in the bytes of the flow (`egress.policy.rulebook`). Each agent has its own
bindings. A flow that was admitted keeps the names of its address, also when it is judged again after the bindings have
lapsed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from egress.policy.domain import canonical

# Programs use an answer longer than its TTL. getaddrinfo hides the TTL, so programs that cache choose a time:
# Chromium 60 s, the JVM 30 s; and a resolver that counts a TTL down hands out answers of 0 and 1 s.
FLOOR = 60.0  # seconds; the shortest life of a binding, whatever its TTL
GRACE = 30.0  # beyond its TTL: the time from an answer to the last connection tried with it (slow or many addresses)
MAX_TTL = 86400.0  # unbound and BIND cap a TTL at this or less; so no binding is kept for a year

MAX_BINDINGS = 16384  # pairs of address and name of one agent; beyond it the oldest is dropped
MAX_NAMES = 64  # of one address; beyond it the oldest is dropped

_NONE: frozenset[str] = frozenset()


class Bindings:
    """Maps addresses to the names that were resolved to them, for each agent.

    Times are seconds, addresses are packed.
    """

    def __init__(self) -> None:
        self._agents: dict[str, _Table] = {}

    def bind(self, agent: str, names: Iterable[str], address: bytes, ttl: float, ts: float) -> None:
        """Record a DNS answer at `ts` that gives each of `names` (the queried name and its CNAME chain) this address.

        `ttl` is the smallest of the chain. A TTL above 2^31 - 1 counts as 0 (RFC 2181 section 8). An answer never
        shortens the life that an earlier one gave.
        """
        table = self._agents.get(agent)
        if table is None:
            table = self._agents[agent] = _Table()
        span = min(ttl, MAX_TTL) if 0 <= ttl < 1 << 31 else 0.0
        for name in names:
            table.put(address, canonical(name), ts + max(span, FLOOR) + GRACE)

    def names_of(self, agent: str, address: bytes, ts: float) -> frozenset[str]:
        """Return the names bound to this address for this agent at `ts`, in the spelling of `domain.canonical`.

        Empty if there are none.
        """
        table = self._agents.get(agent)
        names = table.names.get(address) if table is not None else None
        return frozenset(name for name, until in names.items() if ts < until) if names else _NONE

    def forget(self, agent: str) -> None:
        """Remove the bindings of an agent that is gone."""
        self._agents.pop(agent, None)

    def size(self, agent: str) -> int:
        """Return the number of pairs (address, name) held for an agent, lapsed ones included."""
        table = self._agents.get(agent)
        return len(table.order) if table is not None else 0


class _Table:
    """The bindings of one agent; `order` has those that were renewed longest ago first.

    Lapsed bindings are not searched for: they are dropped when they are the oldest, or with the agent.
    """

    __slots__ = ("names", "order")

    def __init__(self) -> None:
        self.names: dict[bytes, dict[str, float]] = {}
        self.order: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    def put(self, address: bytes, name: str, until: float) -> None:
        """Bind a name to an address until `until`, or longer if it is already; drop the oldest beyond the bounds."""
        names = self.names.setdefault(address, {})
        before = names.pop(name, until)  # removed, and added at the end: the oldest binding is first here, too
        names[name] = max(before, until)
        self.order[address, name] = None
        self.order.move_to_end((address, name))
        if len(names) > MAX_NAMES:
            self._drop(address, next(iter(names)))
        if len(self.order) > MAX_BINDINGS:
            self._drop(*next(iter(self.order)))

    def _drop(self, address: bytes, name: str) -> None:
        del self.order[address, name]
        names = self.names[address]
        del names[name]
        if not names:
            del self.names[address]
