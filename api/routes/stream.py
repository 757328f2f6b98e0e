"""/stream: sends verdicts and findings as they are stored, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api.auth import Authenticator, Viewer
from api.database import Store
from api.problems import ProblemError
from api.records import Filters, RecordFilter
from egress.records.eve import to_eve
from egress.records.shape import FindingRecord, FlowRecord
from egress.records.times import iso
from egress.store.database.handles import Condition, Connection, DBAPIError, Engine
from egress.store.query.listing import made_findings, updated_flows

router = APIRouter(tags=["records"])

POLL_SECONDS = 0.25
BATCH = 1000  # records of a kind read together
LATE_SECONDS = 10.0  # a record may be stored this long after its time: workers and the recorder write in batches
KEEPALIVE_SECONDS = 15.0
RECHECK_SECONDS = 1.0  # between two checks of the caller's authorisation
MAX_STREAMS = 64  # open at a time; each reads the database four times a second

_Record = FlowRecord | FindingRecord


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events `flow` and `alert`, data as EVE JSON"}
    },
    summary="Records as they are stored (server-sent events)",
)
async def stream_records(
    caller: Viewer,
    engine: Store,
    request: Request,
    wanted: Filters,
    kinds: Annotated[
        str,
        Query(
            pattern="^(verdicts|findings|verdicts,findings|findings,verdicts)$",
            description="The kinds of records to send.",
        ),
    ] = "verdicts,findings",
) -> StreamingResponse:
    """Sends records as they are stored; with `since`, older ones first. Ends when the token expires or is revoked."""
    tail = StreamTail(engine, wanted, caller.agents, frozenset(kinds.split(",")))
    open_streams: set[StreamTail] = request.app.state.streams
    if len(open_streams) >= MAX_STREAMS:
        raise ProblemError(503, f"{MAX_STREAMS} streams are open already", headers={"Retry-After": "10"})

    async def events() -> AsyncIterator[bytes]:
        open_streams.add(tail)  # not earlier: a generator that never starts never reaches `finally`
        try:
            async for part in _events(tail, request):
                yield part
        finally:
            open_streams.discard(tail)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _events(tail: StreamTail, request: Request) -> AsyncIterator[bytes]:
    """Yield the records as server-sent events, and a comment when none came for KEEPALIVE_SECONDS.

    Ends when the server stops, or the caller is no longer authorised. Goes on when the database is back.
    """
    authenticator: Authenticator = request.app.state.authenticator
    sent = checked = time.monotonic()
    yield b": egress\n\n"
    while not request.app.state.stopping.is_set():
        if time.monotonic() - checked >= RECHECK_SECONDS:
            checked = time.monotonic()
            try:
                await run_in_threadpool(authenticator.caller, request.scope)
            except ProblemError as problem:
                if problem.status != 503:
                    return
        try:
            new = await run_in_threadpool(tail.read)
        except DBAPIError:
            new = []  # the database is unavailable: the records are read when it is back
        for record in new:
            sent = time.monotonic()
            yield _event(record)
        if time.monotonic() - sent >= KEEPALIVE_SECONDS:
            sent = time.monotonic()
            yield b": still here\n\n"
        if len(new) < BATCH:
            await asyncio.sleep(POLL_SECONDS)


class StreamTail:
    """Reads new records, each once. Records may be stored late, so each read covers the last seconds again."""

    def __init__(self, engine: Engine, wanted: RecordFilter, scope: tuple[str, ...], kinds: frozenset[str]) -> None:
        self._engine, self._scope = engine, scope
        since, now = wanted.selection.since, wanted.selection.now
        self._begun = since is not None
        begin = now - LATE_SECONDS if since is None else since
        self._lists: list[_List] = []
        if "verdicts" in kinds:
            self._lists.append(_List(updated_flows, wanted.flows(), begin))
        if "findings" in kinds:
            self._lists.append(_List(made_findings, wanted.findings(), begin))

    def read(self) -> list[_Record]:
        """Return new records in the order of their times; empty if there are none.

        Without `since` the first call skips the records stored before it.
        """
        new = self._read()
        if not self._begun:
            self._begun = True
            while new:
                new = self._read()
        return new

    def _read(self) -> list[_Record]:
        with self._engine.connect() as connection:
            new = [record for each in self._lists for record in each.read(connection, self._scope)]
        return sorted(new, key=_time)


class _List:
    """The matching records of one kind from time `begin` on, in batches, each record returned once."""

    def __init__(self, read: Callable[..., Sequence[_Record]], wanted: Condition, begin: float) -> None:
        self._read, self._wanted, self._begin = read, wanted, begin
        self._latest = begin
        self._sent: dict[tuple[str, ...], float] = {}  # records of the last seconds that were sent, with their times

    def read(self, connection: Connection, scope: tuple[str, ...]) -> list[_Record]:
        """Return about BATCH records that no call has returned yet, oldest first; fewer if there are no more."""
        since = max(self._begin, self._latest - LATE_SECONDS)
        self._sent = {key: ts for key, ts in self._sent.items() if ts >= since}
        found = self._read(connection, self._wanted, scope, since, BATCH + len(self._sent))
        new = [record for record in found if _identity(record) not in self._sent]
        self._sent.update((_identity(record), _time(record)) for record in new)
        self._latest = max(self._latest, *map(_time, new)) if new else self._latest
        return new


def _time(record: _Record) -> float:
    return record.updated if isinstance(record, FlowRecord) else record.time


def _identity(record: _Record) -> tuple[str, ...]:
    """Return the key of a record. A flow's includes the verdict, which may change twice within a microsecond."""
    if isinstance(record, FlowRecord):
        return record.flow_id, iso(record.updated), record.action, record.reason, record.state
    return (record.finding_id,)


def _event(record: _Record) -> bytes:
    document: dict[str, Any] = to_eve(record)
    return f"event: {document['event_type']}\ndata: {json.dumps(document)}\n\n".encode()
