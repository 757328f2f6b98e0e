"""What a hunter looks like, and what it brings home."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from egress.errors import InputError
from egress.model import Severity
from egress.store.query.history import History, HistoryTarget

MAX_LEADS = 1000  # of one hunter and hunt: nobody reads more, and a history that an agent wrote must not fill the table


@dataclass(frozen=True, slots=True)
class Settings:
    """What the person who hunts decides."""

    alpha: float = 0.01  # false alarms accepted in a hunt, over all beacon hunters and all series they look at
    leak_bytes: int = 10_000_000  # what one destination may get in small amounts before it is worth a look
    baseline: float = 30 * 86400.0  # seconds before the window that show where agents always went

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha: {self.alpha} must be above 0 and below 1")
        if self.leak_bytes < 1 or self.baseline <= 0:
            raise InputError("leak bytes and baseline must be above 0")


@dataclass(frozen=True, slots=True)
class Lead:
    """A finding in the making: the flow it ends with is still to be looked up."""

    agent: str
    target: HistoryTarget  # of that flow
    start: int  # of that flow, microseconds
    destination: str  # in words; with agent, signature and day what makes one finding another
    severity: Severity
    summary: str
    evidence: str  # the numbers it rests on
    strength: float  # the greatest come first, and stay where there are too many


@dataclass(frozen=True, slots=True)
class Haul:
    leads: tuple[Lead, ...]  # strongest first
    notes: tuple[str, ...] = ()  # what was left out, and what the answer cannot say


class Hunter(Protocol):
    """One slow detector, in one module of `egress.hunt.hunters`. Equal history gives equal leads."""

    id: str
    technique: str  # MITRE ATT&CK
    about: str  # one line

    def hunt(self, history: History, settings: Settings) -> Haul: ...


@dataclass(slots=True)
class Strongest:
    """The strongest leads of any number, and how many there were."""

    most: int = MAX_LEADS
    count: int = 0
    _kept: list[tuple[float, str, str, int, Lead]] = field(default_factory=list)

    def add(self, lead: Lead) -> None:
        self.count += 1
        # Ties go by what the lead says, so that the order of rows does not matter.
        entry = (lead.strength, lead.agent, lead.destination, self.count, lead)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def __iter__(self) -> Iterator[Lead]:
        return (entry[-1] for entry in sorted(self._kept, key=lambda entry: (-entry[0], entry[1], entry[2], entry[3])))

    @property
    def left_out(self) -> int:
        return self.count - len(self._kept)


def counted(number: int, noun: str) -> str:
    """`1 flow`, `2 flows`; series stay series."""
    return f"{number} {noun}" if number == 1 or noun.endswith("s") else f"{number} {noun}s"
