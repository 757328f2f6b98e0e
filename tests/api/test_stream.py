"""/stream over a real server: events as they are stored, each once, until the token is revoked."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from egress.model import Action, Reason
from egress.records.shape import Record
from egress.store.database.database import writing
from egress.store.policy import tokens
from egress.store.policy.audit import Actor
from egress.store.recording.writer import store
from tests.api.conftest import Client
from tests.api.serving import served
from tests.whatif.recording import finding, flow

AsRole = Callable[..., Client]
LATE = 3.0  # seconds; the docs promise one, but machines that run tests are busy


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as found:
        yield found


class Stream:
    """A client of the stream, which reads in a thread."""

    def __init__(self, url: str, client: Client, **params: str) -> None:
        self.events: queue.Queue[tuple[float, str, dict[str, Any]]] = queue.Queue()
        self.begun, self.over = threading.Event(), threading.Event()
        self._client = httpx.Client(base_url=url, headers=client.headers, timeout=30)
        self._params = params
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.begun.wait(20)
        time.sleep(0.3)  # its first look at the database is over

    def _read(self) -> None:
        try:
            with self._client.stream("GET", "/api/v1/stream", params=self._params) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                name = ""
                for line in answer.iter_lines():
                    self.begun.set()
                    if line.startswith("event: "):
                        name = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        self.events.put((time.monotonic(), name, json.loads(line.removeprefix("data: "))))
        except httpx.HTTPError:
            pass
        finally:
            self.over.set()

    def next(self) -> tuple[float, str, dict[str, Any]]:
        return self.events.get(timeout=LATE)

    def ids(self, seconds: float) -> list[str]:
        """Collect the ids of all events that arrive within these seconds."""
        time.sleep(seconds)
        return [self.events.get_nowait()[2]["flow_id"] for _ in range(self.events.qsize())]


@contextmanager
def streaming(url: str, client: Client, **params: str) -> Iterator[Stream]:
    stream = Stream(url, client, **params)
    yield stream
    stream._client.close()


def keep(engine: Engine, *records: Record) -> float:
    with writing(engine) as connection:
        store(connection, list(records))
    return time.monotonic()


def fresh(**fields: Any) -> Any:
    now = time.time()
    return replace(flow(**fields), start=now, updated=now)


def test_events_come_within_a_second_each_once(engine: Engine, as_role: AsRole, url: str) -> None:
    keep(engine, fresh())  # stored before
    with streaming(url, as_role("viewer")) as stream:
        took = []
        for _ in range(5):
            new = fresh()
            stored = keep(engine, new)
            at, name, event = stream.next()
            assert (name, event["event_type"], event["flow_id"]) == ("flow", "flow", new.flow_id)
            took.append(at - stored)
        assert sorted(took)[2] < 1.0, took
        late = replace(fresh(), updated=time.time() - 5)  # recorded late
        objected = finding(new, time=time.time())
        changed = replace(new, action=Action.REJECT, reason=Reason.FINDING)  # in the same microsecond
        keep(engine, late, objected, changed)
        found = sorted((name, event["flow_id"]) for _, name, event in (stream.next() for _ in range(3)))
        assert found == sorted([("alert", new.flow_id), ("flow", late.flow_id), ("flow", new.flow_id)])
        assert stream.ids(0.8) == []


def test_filters_scopes_and_kinds_hold(engine: Engine, as_role: AsRole, url: str) -> None:
    viewer, limited = as_role("viewer"), as_role("viewer", "ci-*")
    since = {"since": "1h"}
    old = fresh(agent="ci-1", dport=22)
    keep(engine, old)
    with (
        streaming(url, viewer, q="port:22") as ssh,
        streaming(url, limited) as mine,
        streaming(url, viewer, kinds="findings") as findings,
        streaming(url, limited, **since) as again,
    ):
        made = [fresh(agent="ci-1"), fresh(agent="rome-7", dport=22), fresh(agent="rome-7")]
        keep(engine, *made, finding(made[2], time=time.time()))
        assert ssh.ids(1.0) == [made[1].flow_id]
        assert mine.ids(0) == [made[0].flow_id]
        assert findings.ids(0) == [made[2].flow_id]
        assert again.ids(0) == [old.flow_id, made[0].flow_id]


def test_a_revoked_token_ends_the_stream(engine: Engine, as_role: AsRole, url: str, app: FastAPI) -> None:
    client, other = as_role("viewer"), as_role("viewer")
    with streaming(url, client) as stream, streaming(url, other) as still:
        assert len(app.state.streams) == 2
        with writing(engine) as connection:
            tokens.revoke(connection, Actor("uid:0 (root)"), client.headers["Authorization"].split("_")[1], time.time())
        assert stream.over.wait(LATE)
        assert not still.over.is_set()
        new = fresh()
        keep(engine, new)
        assert still.ids(1.0) == [new.flow_id]
        assert stream.events.empty()
        app.state.stopping.set()  # the end of `egress serve` does the same
        assert still.over.wait(LATE)
    assert not app.state.streams


def test_a_stream_is_closed_when_its_reader_leaves(engine: Engine, as_role: AsRole, url: str, app: FastAPI) -> None:
    with httpx.stream("GET", f"{url}/api/v1/stream", headers=as_role("viewer").headers) as answer:
        lines = answer.iter_lines()  # the connection ends with it
        next(lines)
        assert len(app.state.streams) == 1
    deadline = time.monotonic() + 5
    while app.state.streams and time.monotonic() < deadline:
        keep(engine, fresh())
        time.sleep(0.1)
    assert not app.state.streams
