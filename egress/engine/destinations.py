"""Destinations refused to an agent after a finding, remembered while they are tried and for a time after."""

from __future__ import annotations

from collections import OrderedDict

MAX_DESTINATIONS = 16384  # each cost its agent a proven finding


class Destinations:
    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._until: OrderedDict[tuple[str, bytes], float] = OrderedDict()

    def refuse(self, agent: str, remote: bytes, ts: float) -> None:
        """From now on `agent` may not open flows to this (packed) address."""
        self._until[(agent, remote)] = ts + self._timeout
        self._until.move_to_end((agent, remote))
        if len(self._until) > MAX_DESTINATIONS:
            self._until.popitem(last=False)

    def refused(self, agent: str, remote: bytes, ts: float) -> bool:
        """Whether it is refused; trying keeps it so."""
        until = self._until.get((agent, remote))
        if until is None:
            return False
        if ts >= until:
            del self._until[(agent, remote)]
            return False
        self.refuse(agent, remote, ts)
        return True

    def forget(self, agent: str) -> None:
        """The agent is gone."""
        for key in [key for key in self._until if key[0] == agent]:
            del self._until[key]
