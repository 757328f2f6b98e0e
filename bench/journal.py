"""Measure the cost of a record before the kernel is answered, by fsync policy, on the current directory's disk.

`python -m bench.journal DIRECTORY` measures on the disk of DIRECTORY.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from egress.config import FSYNC
from egress.config import Journal as Settings
from egress.gateway.journal.journal import JournalWriter
from tests.store.samples import numbered

COUNT = {"never": 20_000, "second": 20_000, "record": 300}
SECOND = 0.2  # length of a second for the journal, so that a short measurement has several


def measure(place: Path | None = None) -> dict[str, float]:
    """Measure microseconds per record: median and 99.9th percentile for each fsync policy."""
    found = {}
    for policy in FSYNC:
        with tempfile.TemporaryDirectory(dir=place or Path.cwd(), prefix="journal-") as name:
            spent = sorted(_appends(Path(name), policy))
        found[f"fsync {policy}"] = spent[len(spent) // 2]
        found[f"fsync {policy}, 99.9 %"] = spent[len(spent) * 999 // 1000]
    return found


def _appends(directory: Path, policy: str) -> list[float]:
    """Append records one by one; return the microseconds of each."""
    journal = JournalWriter(directory, 0, Settings(fsync=policy))
    records = [[numbered(number)] for number in range(COUNT[policy])]
    journal.append(records[0], 1.0)
    spent, polled = [], time.perf_counter()
    for record in records:
        began = time.perf_counter()
        if not journal.append(record, 1.0):
            raise RuntimeError(f"the journal fails: {journal.error}")
        ended = time.perf_counter()
        spent.append((ended - began) * 1e6)
        if ended - polled > SECOND:
            journal.poll(1.0)
            polled = ended
    journal.close()
    return spent


if __name__ == "__main__":
    for row, cost in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else None).items():
        print(f"{row:24}{cost:12.1f}")
