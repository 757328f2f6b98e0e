"""The interface of hunters: settings, leads and reports."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from egress.errors import InputError
from egress.model import Severity
from egress.store.query.history import History, HistoryTarget

MAX_LEADS = 1000  # of one hunter per hunt: operators do not read more, and one agent's history must not fill the table


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a hunt. Raises InputError for a value out of range."""

    alpha: float = 0.01  # probability of a false alarm in a hunt, over all beacon hunters and all their series
    leak_bytes: int = 10_000_000  # bytes to one destination, in small amounts, that make a finding
    baseline: float = 30 * 86400.0  # seconds before the window; destinations reached in them are known

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha: {self.alpha} must be above 0 and below 1")
        if self.leak_bytes < 1 or self.baseline <= 0:
            raise InputError("leak bytes and baseline must be above 0")


@dataclass(frozen=True, slots=True)
class Lead:
    """A hunter's result on one agent and destination; it becomes a finding once its last flow is looked up."""

    agent: str
    target: HistoryTarget  # of the last flow
    start: int  # of the last flow, microseconds
    destination: str  # in words; identifies the finding together with agent, signature and day
    severity: Severity
    summary: str
    evidence: str  # the numbers behind it
    strength: float  # the strongest come first; the weakest are left out if there are too many


@dataclass(frozen=True, slots=True)
class HunterReport:
    """The leads of one hunter, and the limits of its search."""

    leads: tuple[Lead, ...]  # strongest first
    notes: tuple[str, ...] = ()  # sentences on data that were left out, and on the limits of the result


class Hunter(Protocol):
    """A detector over stored history, in a module of its own in `egress.hunt.hunters`.

    Equal history must give equal leads.
    """

    id: str
    technique: str  # MITRE ATT&CK
    about: str  # one line that describes it

    def hunt(self, history: History, settings: Settings) -> HunterReport:
        """Search the history in its window, and return the leads. It stores nothing."""
        ...


@dataclass(slots=True)
class Strongest:
    """Keeps the `most` strongest of the leads that are added; iteration yields these, the strongest first."""

    most: int = MAX_LEADS
    count: int = 0
    _kept: list[tuple[float, str, str, int, Lead]] = field(default_factory=list)

    def add(self, lead: Lead) -> None:
        """Add a lead; drop the weakest one beyond `most`."""
        self.count += 1
        # Ties are broken by the content of the leads, so that the order of rows does not matter.
        entry = (lead.strength, lead.agent, lead.destination, self.count, lead)
        if len(self._kept) < self.most:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def __iter__(self) -> Iterator[Lead]:
        return (entry[-1] for entry in sorted(self._kept, key=lambda entry: (-entry[0], entry[1], entry[2], entry[3])))

    @property
    def left_out(self) -> int:
        """The number of leads that were added but not kept."""
        return self.count - len(self._kept)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 flow`, `2 flows`, `2 series`."""
    return f"{number} {noun}" if number == 1 or noun.endswith("s") else f"{number} {noun}s"
