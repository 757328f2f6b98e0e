"""`egress hunt`: runs the hunters, detectors of slow patterns, over stored flows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from egress.cli.input.params import Time, case_words, chosen_case
from egress.cli.input.queries import config_option, period, records
from egress.cli.output.tables import output_option, table
from egress.cli.output.text import endpoint, plain, when
from egress.hunt.hunter import Hunter, Settings
from egress.hunt.hunters import load
from egress.hunt.run import HuntResult, hunt
from egress.policy.budgettext import parse_bytes
from egress.records.eve import to_eve
from egress.records.times import iso
from egress.store.cases.cases import close_case
from egress.store.query.history import History, Window, keep

FOUND = 3
WEEK = 7 * 86400.0  # seconds
SHOWN = 100  # findings printed per hunter; JSON has all
PROGRESS_FLOWS = 50_000  # from so many flows on a hunt takes long enough for a progress bar

EXAMPLES = """\b
Examples:
  egress hunt --since 7d                                patterns of the last week that no single hour shows
  egress hunt --since 30d --only 'beacon.*' --agent 'rome-*'
  egress hunt --since 7d --leak-bytes 2mb --dry-run     report only, store nothing
  egress hunt --case incident-7                         over captures that were replayed into a case
  egress hunt --list                                    the hunters
  egress query signature:beacon.slow                    the flows that earlier hunts reported
"""


class _Bytes(click.ParamType[int]):
    """A number of bytes, with a decimal unit."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(f"{str(value)[:40]!a} {error}", param, ctx)


@click.command("hunt", epilog=EXAMPLES)
@click.option("--since", type=Time(), metavar="TIME", help="Flows that began then or later [7d; a case: all].")
@click.option("--until", type=Time(), metavar="TIME", help="Flows that began by then [now; a case: its end].")
@click.option("--agent", default="", metavar="GLOB", help="Only flows of matching agents.")
@click.option("--only", multiple=True, metavar="ID", help="Only this hunter (beacon.slow, beacon.*); may be repeated.")
@click.option(
    "--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=Settings().alpha, show_default=True,
    help="Accepted probability of at least one false beacon in the whole hunt.",
)  # fmt: skip
@click.option(
    "--leak-bytes", type=_Bytes(), default="10mb", show_default=True, metavar="BYTES",
    help="Report a destination that receives more than this in small amounts.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Store no finding.")
@click.option("--list", "listing", is_flag=True, help="List the hunters and exit.")
@output_option
@config_option
def command(
    *,
    since: float | None,
    until: float | None,
    agent: str,
    only: tuple[str, ...],
    alpha: float,
    leak_bytes: int,
    dry_run: bool,
    listing: bool,
    output: str,
    config: Path | None,
) -> None:
    """Search stored flows for slow patterns, and store findings.

    Such patterns cannot be detected inline. The findings refuse nothing; `egress query effect:none` shows their flows.
    Hunting again over the same flows gives the same findings, which are stored once. Exit codes: 0 nothing found, 3
    something found, 1 error, 2 wrong usage.
    """
    hunters = load(only)
    if listing:
        table(("hunter", "technique", "looks for"), [(each.id, each.technique, each.about) for each in hunters])
        return
    with records(config, writes=not dry_run) as engine:
        window = Window(*period(engine, since, until, time.time(), WEEK), agent)
        flows = History(engine, window).count()
        with _progress(hunters, flows) as progress:
            results = hunt(engine, hunters, window, Settings(alpha, leak_bytes), progress)
        found = [finding for result in results for finding in result.findings]
        stored = 0 if dry_run or not found else keep(engine, found)
        if stored and chosen_case():
            close_case(engine)
    if output == "json":
        click.echo(json.dumps(_document(window, flows, results, stored, dry_run=dry_run)))
    else:
        _human(window, flows, results, stored, dry_run=dry_run)
    sys.exit(FOUND if found else 0)


@contextmanager
def _progress(hunters: Sequence[Hunter], flows: int) -> Iterator[Callable[[str, int], object]]:
    """Show a progress bar on stderr, if the hunt is long and stderr is a terminal.

    Yields the function that moves the bar: it takes a hunter's id and the number of rows that this hunter has read.
    """
    if flows < PROGRESS_FLOWS or not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def advance(hunter: str, rows: int) -> None:
            number = [each.id for each in hunters].index(hunter) + 1
            bar.update(task, description=f"{hunter} ({number} of {len(hunters)}): {rows} rows", completed=rows)

        yield advance


def _human(window: Window, flows: int, results: Sequence[HuntResult], stored: int, *, dry_run: bool) -> None:
    total = 0
    for result in results:
        count = len(result.findings)
        total += count
        exempted = f", {result.exempted} exempted by rules" if result.exempted else ""
        click.echo(f"{result.hunter}: {f'{count} found' if count else 'nothing found'}{exempted}")
        for note in result.notes:
            click.echo(f"  ({plain(note)})")
        for finding in result.findings[:SHOWN]:
            where = endpoint(finding.dst, finding.dport)
            head = f"{finding.finding_id[:8]}  {when(finding.time)}  {plain(finding.agent)} -> {where} {finding.proto}"
            click.echo(f"  {finding.severity} {head}")
            click.echo(f"    {plain(finding.summary)}")
        if count > SHOWN:
            click.echo(f"  and {count - SHOWN} more: egress query signature:{result.hunter}")
    kept = "none stored (--dry-run)" if dry_run else f"{stored} stored, {total - stored} stored before"
    hint = f"; {kept}. Details: egress show finding ID{case_words()}" if total else ""
    click.echo(f"{flows} flows from {when(window.since)} to {when(window.until)} UTC, {total} findings{hint}")


def _document(
    window: Window, flows: int, results: Sequence[HuntResult], stored: int, *, dry_run: bool
) -> dict[str, object]:
    return {
        "since": iso(window.since),
        "until": iso(window.until),
        "flows": flows,
        "stored": stored,
        "dry_run": dry_run,
        "hunters": [
            {
                "id": result.hunter,
                "exempted": result.exempted,
                "notes": list(result.notes),
                "findings": [to_eve(finding) for finding in result.findings],
            }
            for result in results
        ],
    }
