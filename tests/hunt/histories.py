"""Flow histories of agents for the tests of hunters: seeded generators, and a real database that stores them."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sqlalchemy.engine import Engine

from egress.hunt.hunter import HunterReport, Settings
from egress.hunt.hunters import load
from egress.hunt.regularity import Floats
from egress.records.shape import FlowRecord
from egress.store.database.database import open_database, writing
from egress.store.query.history import History, Window
from egress.store.recording.writer import store
from tests.whatif.recording import FLOW

SINCE = 1_795_392_000.0  # a midnight, UTC
DAY = 86400.0
WEEK = Window(SINCE, SINCE + 7 * DAY)
_numbers = itertools.count(1)


def flow(start: float, **fields: Any) -> FlowRecord:
    """A flow that began `start` seconds into the window and took two seconds."""
    moment = round((SINCE + start) * 1e6) / 1e6
    shared = {"flow_id": f"{next(_numbers):016x}", "start": moment, "updated": moment + 2, "end": moment + 2}
    return replace(FLOW, **{**shared, **fields})


def flows(starts: Iterable[float], **fields: Any) -> list[FlowRecord]:
    return [flow(float(start), **fields) for start in starts]


def query(start: float, name: str, **fields: Any) -> FlowRecord:
    resolver = {"proto": "udp", "dst": "10.0.0.53", "dport": 53, "app_proto": "dns", "packets_out": 1}
    return flow(start, server_name=name, **{**resolver, **fields})


def named(name: str, dst: str = "203.0.113.9") -> dict[str, Any]:
    return {"dst": dst, "server_name": name, "names": (name,)}


def beacon(rng: np.random.Generator, period: float, jitter: float, beats: int, missed: float = 0.0) -> Floats:
    """Make the starts (seconds) of an implant's connections.

    Each pause is `period` seconds, shortened by up to the share `jitter` of it; the share `missed` is left out.
    """
    starts = rng.uniform(0, period) + np.cumsum(period * (1 - jitter * rng.random(beats)))
    return starts[rng.random(beats) >= missed]


def week(starts: Floats) -> Floats:
    return starts[starts < 7 * DAY]


def fill(engine: Engine, records: Sequence[FlowRecord]) -> None:
    with writing(engine) as connection:
        store(connection, records)


@contextmanager
def stored(path: Path, records: Sequence[FlowRecord]) -> Iterator[Engine]:
    """A SQLite database with these flows."""
    (path / "egress.db").write_bytes(_empty())
    engine = open_database(f"sqlite:///{path / 'egress.db'}")
    try:
        fill(engine, records)
        yield engine
    finally:
        engine.dispose()


@cache
def _empty() -> bytes:
    """The bytes of a database file without rows, cached: to make one takes a second."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "egress.db"
        open_database(f"sqlite:///{file}").dispose()
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return file.read_bytes()


def haul(engine: Engine, hunter: str, window: Window = WEEK, settings: Settings | None = None) -> HunterReport:
    (only,) = load([hunter])
    return only.hunt(History(engine, window), settings or Settings())
