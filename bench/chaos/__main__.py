"""Inject faults into a real gateway under load and write docs/reliability.md: `python -m bench.chaos` (root).

A run takes a quarter of an hour, or longer on a busy machine.
Exit status 1: something got out, a flow has no record, or a trial failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.chaos.faults import FAULTS
from bench.chaos.page import page
from bench.chaos.trial import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
RATE = 500.0


def main() -> int:
    """Run the chosen trials and write the page; return the exit status (2: no fault has such a name)."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m bench.chaos --only mangle --out /tmp/reliability.md",
    )
    parser.add_argument("--rate", type=float, default=RATE, help="canaries per second (default: %(default)g)")
    parser.add_argument("--only", default="", help="only the faults whose name contains this text")
    parser.add_argument("--out", type=Path, default=PAGE, help="the file to write (default: docs/reliability.md)")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time (default: %(default)d)")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if options.only in fault.name]
    if options.list or not chosen:
        print("\n".join(fault.name for fault in FAULTS))
        return 0 if options.list else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # trials that run end, and remove what they made
    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, result in zip(chosen, pool.map(lambda fault: run(fault, options.rate), chosen), strict=True):
            results.append((fault, result))
            state = "open by design" if fault.open else "held" if result.held else "DID NOT HOLD"
            print(f"{state:14} {result}", flush=True)
    options.out.write_text(page(results, options.rate, time.strftime("%Y-%m-%d %H:%M", time.gmtime())))
    return 0 if all(fault.open or result.held for fault, result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
