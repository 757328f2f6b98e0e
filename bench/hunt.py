"""Measure time and memory of `egress hunt` over a week of synthetic flows in a real database."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import sqlalchemy as sa

from egress.hunt.hunter import Settings
from egress.hunt.hunters import load
from egress.hunt.run import hunt
from egress.model import Action, Mode, Reason
from egress.records.shape import FlowRecord
from egress.store.database.database import open_database, storing
from egress.store.query.history import Window
from egress.store.recording.writer import store

SINCE, DAY = 1_795_392_000.0, 86400.0
AGENTS, CHUNK = 200, 20_000

FLOW = FlowRecord(
    flow_id="", agent="", start=0.0, updated=0.0, end=None, state="closed", direction="out", proto="tcp",
    src="10.77.0.2", sport=40000, dst="", dport=443, community_id="", app_proto="tls", server_name="",
    action=Action.ACCEPT, reason=Reason.DEFAULT, rule_id="", policy_version=1, mode=Mode.ENFORCE, packets_out=6,
    packets_in=5, bytes_out=900, bytes_in=5000, unseen_bytes=0,
)  # fmt: skip


def history(count: int) -> Iterator[FlowRecord]:
    """Make `count` flows of AGENTS agents: bursts of work at 40 names, DNS queries, destinations that occur once.

    Every fourth agent has a beacon. About a third of the flows begin before the week that is searched.
    """
    rng = np.random.default_rng(7)
    each = count // AGENTS
    number = 0
    for agent in range(AGENTS):
        beats = np.cumsum(1800 * (1 - 0.3 * rng.random(330))) if agent % 4 == 0 else np.zeros(0)
        times = np.concatenate([np.cumsum(rng.gamma(0.5, 2 * 10 * DAY / each, each - len(beats))), beats + 3 * DAY])
        kinds = rng.random(len(times))
        for index, (at, kind) in enumerate(zip(times.tolist(), kinds.tolist(), strict=True)):
            number += 1
            place = int(kind * 1e6) % 40
            name, dst = f"www{place}.example{place % 7}.org", f"198.51.100.{place}"
            fields: dict[str, object] = {"server_name": name, "names": (name,), "dst": dst}
            if index >= each - len(beats):
                fields = {"dst": "203.0.113.77"}
            elif kind < 0.25:
                fields = {"proto": "udp", "dport": 53, "dst": "10.0.0.53", "app_proto": "dns", "server_name": name}
                fields |= {"packets_out": 2, "bytes_out": 150}
            elif kind < 0.4:
                fields = {"dst": f"2001:db8::{number:x}"}
            start = round((SINCE - 3 * DAY + at) * 1e6) / 1e6
            identity = {"flow_id": f"{number:016x}", "agent": f"agent-{agent}", "start": start, "updated": start + 2}
            yield replace(FLOW, **identity, **fields)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hunt", description=__doc__)
    parser.add_argument("--flows", type=int, default=1_000_000)
    parser.add_argument("--database", help="URL of an empty database [SQLite in a temporary directory]")
    chosen = parser.parse_args(arguments)
    with TemporaryDirectory() as directory:
        engine = open_database(chosen.database or f"sqlite:///{Path(directory) / 'egress.db'}")
        begin, rows = time.monotonic(), list[FlowRecord]()
        for row in history(chosen.flows):
            rows.append(row)
            if len(rows) >= CHUNK:
                with storing(engine) as connection:
                    store(connection, rows)
                rows.clear()
        with storing(engine) as connection:
            store(connection, rows)
            connection.execute(sa.text("ANALYZE"))
        print(f"{chosen.flows} flows stored in {time.monotonic() - begin:.0f} s, {_peak()} MiB at most", flush=True)
        for hunter in load():
            begin, used = time.monotonic(), time.process_time()
            (found,) = hunt(engine, [hunter], Window(SINCE, SINCE + 7 * DAY), Settings())
            took, used = time.monotonic() - begin, time.process_time() - used
            told = f"{took:.1f} s ({used:.1f} s of CPU here), {_peak()} MiB at most; {found.notes}"
            print(f"{hunter.id}: {len(found.findings)} found, {told}", flush=True)
        engine.dispose()


def _peak() -> int:
    """Return the most memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
