"""The records that a request of the API asks for, as conditions for `egress.store.query.listing`."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from egress.errors import InputError
from egress.store.database.handles import Condition
from egress.store.database.matching import glob
from egress.store.database.tables import anomalies, findings, flows
from egress.store.query import search


class InvalidTermError(InputError):
    """The value of a term of a selection is not valid; `field` is the name of the term's field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Selection:
    """Records must match every term (a field of the query language and its value), the query, and the time limits."""

    terms: tuple[tuple[str, str], ...] = ()
    query: str = ""
    now: float = 0.0  # seconds: the time from which the query counts back (since:2h)
    since: float | None = None  # seconds; flows: still active then or later. Others: made then or later
    until: float | None = None  # seconds; flows: begun by then. Others: made by then

    @property
    def narrow(self) -> bool:
        """True if it has a query, or a term with a field other than `agent`."""
        return bool(self.query) or any(field != "agent" for field, _ in self.terms)

    def flows(self) -> Condition:
        """The condition on flows. Raises InvalidTermError, InvalidQueryError."""
        return sa.and_(*self._matching(flows), *self._between(flows.c.updated, flows.c.start))

    def findings(self) -> Condition:
        """The condition on findings. Raises InvalidTermError, InvalidQueryError."""
        return sa.and_(*self._matching(findings), *self._between(findings.c.time, findings.c.time))

    def anomalies(self) -> Condition:
        """The condition on packets refused without a flow: on their agent and time alone.

        They have no other field, so the other terms and the query do not count.
        """
        named = [glob(anomalies.c.agent, value) for field, value in self.terms if field == "agent"]
        return sa.and_(sa.true(), *named, *self._between(anomalies.c.time, anomalies.c.time))

    def _matching(self, table: sa.Table) -> list[Condition]:
        found = []
        for field, value in self.terms:
            try:
                found.append(search.one(field, value, table, self.now))
            except InputError as error:
                raise InvalidTermError(field, str(error)) from None
        return [*found, search.compile_query(self.query, table, self.now)]

    def _between(self, late: sa.ColumnElement[float], early: sa.ColumnElement[float]) -> list[Condition]:
        terms = []
        if self.since is not None:
            terms.append(late >= self.since)
        if self.until is not None:
            terms.append(early <= self.until)
        return terms
