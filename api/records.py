"""Filters of the listings of records, and records as EVE documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Annotated

from fastapi import Depends, Query

from api.problems import ProblemError, wrong_parameter
from api.times import Since, Until, moment
from egress.records.eve import process_part, to_eve
from egress.records.shape import FindingRecord, FlowRecord
from egress.store.database.handles import Condition, Connection
from egress.store.query import search
from egress.store.query.processes import by_flow
from egress.store.query.reader import findings_by_flow
from egress.store.query.selection import InvalidTermError, Selection

FILTERS = ("agent", "signature", "action", "dest", "name")


class RecordFilter:
    """The filter of a listing, from query parameters: records must match all that are given.

    Values are as in the query language; `q` is a query.
    """

    def __init__(
        self,
        q: Annotated[
            str,
            Query(
                max_length=search.MAX_QUERY, description="A query, as in `egress query`", examples=["port:443 -app:tls"]
            ),
        ] = "",
        agent: Annotated[str, Query(max_length=128, description="Name or glob")] = "",
        signature: Annotated[str, Query(max_length=128, description="Signature or glob: `ssh.*`")] = "",
        action: Annotated[str, Query(max_length=16, description="accept, reject, drop or hold")] = "",
        dest: Annotated[str, Query(max_length=64, description="Address or CIDR")] = "",
        name: Annotated[
            str,
            Query(
                max_length=255,
                description="Server name in the bytes, or a name that the agent resolved to the address; may be a glob",
            ),
        ] = "",
        since: Since = None,
        until: Until = None,
    ) -> None:
        now = time.time()
        begin, end = moment("since", since, now), moment("until", until, now)
        values = zip(FILTERS, (agent, signature, action, dest, name), strict=True)
        self.selection = Selection(tuple(term for term in values if term[1]), q, now, begin, end)

    def flows(self) -> Condition:
        """Return the filters as a condition on flows. Raises ProblemError (422) that names the wrong parameter."""
        return _checked(self.selection.flows)

    def findings(self) -> Condition:
        """Return the filters as a condition on findings. Raises ProblemError (422) that names the wrong parameter."""
        return _checked(self.selection.findings)


def _checked(condition: Callable[[], Condition]) -> Condition:
    """Return the condition. Raises ProblemError (422) that names the wrong parameter."""
    try:
        return condition()
    except InvalidTermError as error:
        raise wrong_parameter(error.field, str(error)) from None
    except search.InvalidQueryError as error:
        raise wrong_parameter("q", f"column {error.column}: {error.reason}") from None


Filters = Annotated[RecordFilter, Depends()]


def flow_documents(connection: Connection, records: Iterable[FlowRecord]) -> list[dict[str, object]]:
    """Convert flows to EVE documents, each with its findings and its process."""
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
    """Convert a finding to an EVE document."""
    return to_eve(record)


def not_found(what: str, id: str) -> ProblemError:  # noqa: A002 - its name
    """Make the problem (404) of a record that does not exist or is outside the caller's scope."""
    return ProblemError(404, f"there is no {what} {id}, or it is outside your scope")
