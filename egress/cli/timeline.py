"""`egress timeline`: draws each agent's flows and bytes over time, in the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from egress.cli.input.params import Time
from egress.cli.input.queries import QueryCommand, checked, config_option, period, query_argument, records
from egress.cli.output.sparkline import axis_lines, bars, blocks, marks
from egress.cli.output.tables import as_json, output_option
from egress.cli.output.text import plain, size, when
from egress.errors import InputError
from egress.records.times import iso
from egress.store.query.reader import Filter
from egress.store.query.timeline import Activity, Axis, axis, timeline

AGENTS = 50  # at most this many are drawn, unless --limit is given
STEPS = 10_000  # at most this many columns in JSON
LABEL = 11  # columns, left of the line
NUMBERS = 16  # columns, right of it
DEFAULT_WIDTH = 100  # columns, without a terminal

_NUMBER = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

EXAMPLES = """\b
Examples:
  egress timeline                                  every agent's last day
  egress timeline agent:rome-* --since 2h --bucket 1m
  egress timeline --case incident                  all of a case
  egress timeline -proto:udp --since 2026-11-23T15:00 --until 2026-11-23T18:00 -o json
"""


class _Bucket(click.ParamType[int]):
    """A duration in seconds; 0: auto."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text in ("auto", "0"):
            return 0
        number, unit = text[:-1], text[-1:]
        if unit not in _UNITS or not _NUMBER.fullmatch(number):
            self.fail(f"{text[:40]!a} is not a valid duration; write auto, 30s, 5m, 1h or 1d", param, ctx)
        return int(number) * _UNITS[unit]


@click.command("timeline", cls=QueryCommand, epilog=EXAMPLES)
@query_argument
@click.option("--agent", default="", metavar="GLOB", help="Only matching agents.")
@click.option("--since", type=Time(), metavar="TIME", help="Start of the period [24h ago; a case: its first flow].")
@click.option("--until", type=Time(), metavar="TIME", help="End of the period [now; a case: its last record].")
@click.option(
    "--bucket", type=_Bucket(), default="auto", show_default=True, metavar="TIME", help="Duration of a column."
)
@click.option("--limit", type=click.IntRange(1), default=AGENTS, show_default=True, help="The N busiest agents.")
@output_option
@config_option
def command(
    *,
    words: tuple[str, ...],
    agent: str,
    since: float | None,
    until: float | None,
    bucket: int,
    limit: int,
    output: str,
    config: Path | None,
) -> None:
    """Draw each agent's flows and bytes over time.

    In the line below, x marks refusals and ! findings. Times are UTC. QUERY is as in `egress query`. A flow and all its
    bytes are drawn at the time it began.
    """
    now = time.time()
    wanted = Filter(query=checked(words, now), now=now, agent=agent)
    with records(config) as engine:
        shown = _axis(*period(engine, since, until, now), bucket, for_people=output != "json")
        found, more = timeline(engine, wanted, shown, limit)
    if output == "json":
        as_json(_document(found, more, shown))
        return
    if not found:
        click.echo("No flow of that period matches; widen --since, or drop a part of the query.")
        return
    for line in _drawn(found, shown):
        click.echo(line)
    if more:
        click.echo(f"the {len(found)} busiest agents; {more} more: --limit {len(found) + more}")


def _axis(since: float, until: float, bucket: int, *, for_people: bool) -> Axis:
    """Return the axis that fits the terminal, or has columns of `bucket` seconds. Raises InputError for too many."""
    room = _room()
    shown = axis(since, until, room, bucket or None)
    most = room if for_people else STEPS
    if shown.count > most:
        raise InputError(
            f"--bucket makes {shown.count} columns, and there is room for {most}: use auto, or a shorter period"
        )
    return shown


def _room() -> int:
    """Return the number of columns that the terminal has for the drawing."""
    width = shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns if sys.stdout.isatty() else DEFAULT_WIDTH
    return max(20, width - LABEL - NUMBERS)


def _drawn(found: tuple[Activity, ...], shown: Axis) -> Iterator[str]:
    signs = blocks(sys.stdout.encoding)
    exact = 16 if shown.step % 60 == 0 else 19
    yield f"{when(shown.begin)[:exact]} to {when(shown.end)[:exact]} UTC, {_length(shown.step)} per column"
    for each in found:
        yield ""
        yield click.style(plain(each.agent), bold=True)
        yield f"{'  flows':<{LABEL}}{bars(each.flows, signs)}  {sum(each.flows)}"
        yield f"{'  bytes':<{LABEL}}{bars(each.bytes, signs)}  {size(sum(each.bytes))}"
        if any(each.refused) or any(each.findings):
            line = marks(each.refused, each.findings)
            yield f"{'':<{LABEL}}{click.style(line, fg='red')}  {sum(each.refused)} refused"
        if each.signatures:
            named = ", ".join(f"{plain(signature)} {count}" for signature, count in each.signatures.most_common(8))
            rest = len(each.signatures) - 8
            yield f"{'  findings':<{LABEL}}{named}" + (f" and {rest} others" if rest > 0 else "")
    yield ""
    for line in axis_lines(shown):
        yield f"{'':<{LABEL}}{line}"


def _length(seconds: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def _document(found: tuple[Activity, ...], more: int, shown: Axis) -> dict[str, object]:
    agents = [
        {
            "agent": each.agent,
            "flows": each.flows,
            "bytes": each.bytes,
            "refused": each.refused,
            "findings": each.findings,
            "signatures": dict(each.signatures),
        }
        for each in found
    ]
    return {
        "begin": iso(shown.begin),
        "end": iso(shown.end),
        "bucket_seconds": shown.step,
        "agents": agents,
        "agents_left_out": more,
    }
