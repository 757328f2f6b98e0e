"""docs/reliability.md, written from the results of one run."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

from bench.chaos.traffic import CONTENTS, PROBES
from bench.chaos.trial import Fault, Result

HEAD = """\
# Reliability

`make chaos` (root) writes this page; do not edit it. Each fault is injected into a real gateway of its own, in network
namespaces of its own, while an agent sends what no rule allows. A witness outside counts what arrives.

- **canaries**: datagrams and SYNs of both IP families to ports that no rule allows ({rate:g} a second); **out**: those
  that arrived outside.
- **contents**: HTTP requests in connections that a rule allows for SSH alone ({contents:g} connections a second);
  **out**: those that arrived.
- **flows**: datagrams that a rule allows, each a flow of its own ({probes:g} a second), that arrived; **lost**: those
  of them without a record in the database in the end.
- **gap**: the longest time without such a flow, in seconds: how long honest work waited. It depends on the machine and
  its load; the counts should not.

A fault that repeats may cut the agents off, by design; the trial then runs `egress resume`, as a person would. A trial
ends when allowed flows pass again and the recorder has caught up; one that does not get there has failed.
"""
RUN = "One run of {count} trials on {date} UTC: Linux {kernel}, {cpus} CPUs, load average {load:.1f}. {summary}"
WIDTH = 120
COLUMNS = ("fault", "canaries", "out", "contents", "out", "flows", "lost", "gap")


def page(results: Sequence[tuple[Fault, Result]], rate: float, date: str) -> str:
    """Write the page: its head, a table for each group of faults, and the trials that failed. `date` is in UTC."""
    head = HEAD.format(rate=rate, contents=CONTENTS, probes=PROBES)
    run = RUN.format(
        count=len(results), date=date, kernel=platform.release(), cpus=os.cpu_count(), load=os.getloadavg()[0],
        summary=summary(results),
    )  # fmt: skip
    parts = [head, fill(run, WIDTH) + "\n"]
    for group, rows in groupby(results, key=lambda row: row[0].group):
        table = [COLUMNS, *(_cells(fault, result) for fault, result in rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                           for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
                 for row in table]  # fmt: skip
        parts.append(f"## {group}\n\n```\n" + "\n".join(lines) + "\n```\n")
    failed = [f"- {result.name}: {result.note}." for _, result in results if result.note]
    notes = [fill(note, WIDTH, subsequent_indent="  ") for note in failed]
    if notes:
        parts.append("## Failed or not done\n\n" + "\n".join(notes) + "\n")
    return "\n".join(parts)


def summary(results: Sequence[tuple[Fault, Result]]) -> str:
    """Write the totals of the trials in which the agent had to be guarded, as one sentence."""
    guarded = [result for fault, result in results if not fault.open]
    canaries, out = sum(each.canaries for each in guarded), sum(each.canaries_out for each in guarded)
    contents, spoken = sum(each.contents for each in guarded), sum(each.contents_out for each in guarded)
    flows, lost = sum(each.passed for each in guarded), sum(each.unrecorded for each in guarded)
    held = sum(each.held for each in guarded)
    return (
        f"Of {len(guarded)} trials with a gateway {held} held: {out} of {canaries} canaries and {spoken} of {contents}"
        f" contents got out, and {lost} of {flows} allowed flows have no record."
    )


def _cells(fault: Fault, result: Result) -> tuple[str, ...]:
    """Return the cells of a fault's row; dashes for a trial that was not done."""
    if result.note.startswith("not done"):
        return (result.name, *["-"] * 7)
    rest = ("-", "-") if fault.open else (str(result.passed), str(result.unrecorded))
    name = result.name + ("" if fault.open or result.held else "  (!)")
    return (
        name, str(result.canaries), str(result.canaries_out), str(result.contents), str(result.contents_out), *rest,
        f"{result.gap:.1f}",
    )  # fmt: skip
