"""What the listings of records have in common: their filters, and records as EVE."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, Query
from sqlalchemy.engine import Connection

from api.paging import Since, Until, moment
from api.problems import Problem, wrong_parameter
from egress.errors import InputError
from egress.records.eve import process_part, to_eve
from egress.records.shape import FindingRecord, FlowRecord
from egress.store.database.matching import glob
from egress.store.database.tables import findings, flows
from egress.store.query import search
from egress.store.query.processes import by_flow
from egress.store.query.reader import findings_by_flow

FILTERS = ("agent", "signature", "action", "dest", "name")


class Wanted:
    """Which records; each parameter as the query language has it, `q` a whole query."""

    def __init__(
        self,
        q: Annotated[
            str,
            Query(
                max_length=search.MAX_QUERY, description="A query, as of `egress query`", examples=["port:443 -app:tls"]
            ),
        ] = "",
        agent: Annotated[str, Query(max_length=128, description="Name or glob")] = "",
        signature: Annotated[str, Query(max_length=128, description="Signature or glob: `ssh.*`")] = "",
        action: Annotated[str, Query(max_length=16, description="accept, reject, drop or hold")] = "",
        dest: Annotated[str, Query(max_length=64, description="Address or CIDR")] = "",
        name: Annotated[str, Query(max_length=255, description="Name in the bytes or bound, or a glob")] = "",
        since: Since = None,
        until: Until = None,
    ) -> None:
        self.now = time.time()
        self.since, self.until = moment("since", since, self.now), moment("until", until, self.now)
        self._terms = [
            (field, value)
            for field, value in zip(FILTERS, (agent, signature, action, dest, name), strict=True)
            if value
        ]
        self._query = q

    def condition(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """On rows of `table`, flows or findings. Raises Problem (422) that names the parameter."""
        found = []
        for field, value in self._terms:
            try:
                found.append(search.one(field, value, table, self.now))
            except InputError as error:
                raise wrong_parameter(field, str(error)) from None
        try:
            found.append(search.compile_query(self._query, table, self.now))
        except search.InvalidQuery as error:
            raise wrong_parameter("q", f"column {error.column}: {error.reason}") from None
        late, early = (findings.c.time, findings.c.time) if table is findings else (flows.c.updated, flows.c.start)
        if self.since is not None:
            found.append(late >= self.since)
        if self.until is not None:
            found.append(early <= self.until)
        return sa.and_(*found)

    def agent_condition(self, column: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        """The agent alone, on a column of another table."""
        return sa.and_(sa.true(), *(glob(column, value) for field, value in self._terms if field == "agent"))

    @property
    def narrow(self) -> bool:
        """Whether anything but time and agent is asked for."""
        return bool(self._query) or any(field != "agent" for field, _ in self._terms)


Filters = Annotated[Wanted, Depends()]


def flow_documents(connection: Connection, records: Iterable[FlowRecord]) -> list[dict[str, object]]:
    """EVE flows, each with its findings and its process."""
    listed = list(records)
    ids = [record.flow_id for record in listed]
    made, opened = findings_by_flow(connection, listed), by_flow(connection, ids)
    return [
        {
            **to_eve(record),
            "findings": [to_eve(each) for each in made.get(record.flow_id, ())],
            "process": process_part(opened.get(record.flow_id)),
        }
        for record in listed
    ]


def finding_document(record: FindingRecord) -> dict[str, object]:
    return to_eve(record)


def missing(what: str, id: str) -> Problem:  # noqa: A002 - its name
    return Problem(404, f"there is no {what} {id}, or it is outside your scope")
