"""Measure the cost of a packet, a record, a policy and an edit, and three datapaths: `python -m bench` (root).

`python -m bench costs` measures the worst known input of each parser alone, without root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack

from bench import costs, edits, engine, journal, memory, paths, policy
from demo.stage import Stage

Rows = dict[str, list[float]]


def spread(values: list[float], form: str = "8.2f") -> str:
    """Write minimum, median and maximum of some values."""
    return "  ".join(f"{value:{form}}" for value in (min(values), statistics.median(values), max(values)))


def compare(title: str, unit: str, load: Callable[[Stage, float], float], rounds: int, seconds: float) -> Rows:
    """Run a load over all datapaths in turn, `rounds` times; print and return the results.

    `load` measures one stage for some seconds. All stages exist at once; only one is under load.
    """
    rows: Rows = {"plain forwarding": [], "bare accept-all queue": [], "egress gateway": []}
    makers = (paths.plain, paths.accept_all, paths.gateway)
    with ExitStack() as stack:
        stages = [stack.enter_context(make()) for make in makers]
        for _ in range(rounds):
            for name, stage in zip(rows, stages, strict=True):
                rows[name].append(load(stage, seconds))
    print(f"\n{title} ({unit}; {rounds} rounds of {seconds:g} s)")
    print(f"{'':24}{'min':>8}  {'median':>8}  {'max':>8}     ratio to plain, round by round: min median max")
    for name, values in rows.items():
        ratios = [value / base for value, base in zip(values, rows["plain forwarding"], strict=True)]
        print(f"{name:24}{spread(values)}     {spread(ratios, '6.3f')}")
    return rows


def table(title: str, measure: Callable[[], dict[str, float]], rounds: int) -> None:
    """Call `measure` `rounds` times. Print minimum, median and maximum for each kind of cost."""
    samples: Rows = {}
    for _ in range(rounds):
        for kind, cost in measure().items():
            samples.setdefault(kind, []).append(cost)
    print(f"\n{title}")
    print(f"{'':24}{'min':>8}  {'median':>8}  {'max':>8}")
    for kind, values in samples.items():
        print(f"{kind:24}{spread(values)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["all", "costs"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each round")
    options = parser.parse_args()
    if options.what == "costs":
        table(f"The worst input of each parser ({costs.UNIT})", costs.measure, options.rounds)
        return 0
    if os.geteuid():
        print("bench: run as root, it makes network namespaces", file=sys.stderr)
        return 1
    table("Engine (microseconds per packet)", engine.measure, options.rounds)
    table(f"The worst input of each parser ({costs.UNIT})", costs.measure, options.rounds)
    table("Memory of a flow (bytes)", memory.measure, 1)
    table("A record, on the disk of this directory (microseconds)", journal.measure, options.rounds)
    table(f"Policy of {policy.RULES:,} rules", policy.compiling, options.rounds)
    table("The same (milliseconds per change)", policy.editing, options.rounds)
    table("The same (microseconds per call)", policy.asking, options.rounds)
    for rules in (0, policy.RULES):
        title = f"An edit beside {rules:,} rules, commit to effect (milliseconds; {2 * edits.EDITS} edits per round)"
        table(title, lambda rules=rules: edits.propagation(rules), 1)  # type: ignore[misc]
    compare("Bulk TCP, one stream", "Gbit/s", paths.bulk_tcp, options.rounds, options.seconds)
    compare("64-byte UDP, one flow", "packets/s", paths.small_udp, options.rounds, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
