"""`egress query`: lists or counts recorded flows, with their verdicts and findings."""

from __future__ import annotations

import ipaddress
import json
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import click
from rich.console import Console

from egress.cli.input.params import Time, chosen_case
from egress.cli.input.queries import QueryCommand, checked, config_option, query_argument, records
from egress.cli.output import counts, csvtext
from egress.cli.output.flowtable import flow_table
from egress.cli.output.tables import table
from egress.model import Action
from egress.records.shape import FlowRecord
from egress.records.times import iso
from egress.store.database.handles import Engine
from egress.store.query.counting import KEYS
from egress.store.query.reader import SORTS, Filter, FlowDetails, agents, flow_details, flows
from egress.store.query.search import FIELDS
from egress.store.query.storyjson import flow_mapping

HUMAN_LIMIT = 100  # flows of a table, unless --limit says otherwise
TABLE_ROWS = 1000  # per table; the next has its own header: column widths need all rows of a table in memory

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CSV = (
    "start", "updated", "end", "flow_id", "agent", "action", "reason", "mode", "direction", "state", "proto", "src",
    "sport", "dst", "dport", "app_proto", "app_expected", "server_name", "names", "packets_out", "packets_in",
    "bytes_out", "bytes_in", "unseen_bytes", "rule_id", "policy_version", "community_id",
)  # fmt: skip

_PROCESS = ("pid", "exe", "cmdline", "container")


class _Destination(click.ParamType[_Network]):
    """An address or a CIDR."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> _Network:
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return value
        try:
            return ipaddress.ip_network(str(value), strict=False)
        except ValueError:
            self.fail(
                f"{value!r} is not a valid address; write one like 192.0.2.7 or a CIDR like 192.0.2.0/24", param, ctx
            )


class _Sort(click.ParamType[str]):
    """A field to sort by; a leading - reverses the order."""

    name = "field"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text and text.removeprefix("-") not in (*SORTS, *counts.ORDERS):
            self.fail(f"{text[:40]!a} is not a sort field; it must be one of {', '.join(SORTS)}", param, ctx)
        return text


class _Keys(click.ParamType[tuple[str, ...]]):
    """One or more keys to count flows by, separated by commas."""

    name = "keys"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        keys = tuple(dict.fromkeys(key.strip() for key in str(value).split(",")))
        for key in keys:
            if key not in KEYS:
                self.fail(f"{key[:40]!a} is not a count key; it must be one of {', '.join(KEYS)}", param, ctx)
        return keys


EXAMPLES = """\b
Examples:
  egress query --since 2h                                all flows, passed and refused
  egress query 'agent:rome-* action:reject since:2h'     refusals of some agents
  egress query name:*.example.com -proto:udp 'bytes>1mb' --sort bytes
  egress query signature:ssh.* or 'port:22 and not app:ssh' -o jsonl
  egress query since:1d --count-by signature,agent       number, first and last time
  egress query process:curl container:3f2a --process     by the process that opened them
  egress query --fields                                  the fields that QUERY knows
"""


@click.command("query", cls=QueryCommand, epilog=EXAMPLES)
@query_argument
@click.option("--agent", default="", metavar="GLOB", help="Only matching agents.")
@click.option("--signature", default="", metavar="GLOB", help="Only flows with a matching finding, e.g. mining.*")
@click.option("--action", type=click.Choice([action.value for action in Action]), help="Only flows with this verdict.")
@click.option("--dest", type=_Destination(), metavar="CIDR", help="Only flows to this address or network.")
@click.option("--since", type=Time(), metavar="TIME", help="Only flows active then or later: 2026-11-23T15:00 or 2h.")
@click.option("--until", type=Time(), metavar="TIME", help="Only flows that began by then.")
@click.option("--sort", type=_Sort(), default="", metavar="FIELD", help="Greatest last; -FIELD: smallest last.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help=f"The newest N flows (human: {HUMAN_LIMIT}, otherwise all)."
)
@click.option(
    "--page", type=click.IntRange(1), default=1, metavar="N", help="Page N of --limit flows; page 1 has the newest."
)
@click.option("--count-by", type=_Keys(), metavar="KEYS", help=f"Count instead, by {', '.join(KEYS)}.")
@click.option("--process", "processes", is_flag=True, help="Also show the process that opened each flow (human).")
@click.option("--fields", is_flag=True, help="List the fields of QUERY and exit.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["human", "table", "json", "jsonl", "csv"]),
    default="human",
    show_default=True,
    help="table is the same as human; json, jsonl and csv are written while records are read.",
)
@config_option
def command(
    *,
    words: tuple[str, ...],
    agent: str,
    signature: str,
    action: str | None,
    dest: _Network | None,
    since: float | None,
    until: float | None,
    sort: str,
    limit: int | None,
    page: int,
    count_by: tuple[str, ...] | None,
    processes: bool,
    fields: bool,
    output: str,
    config: Path | None,
) -> None:
    """Show flows with their verdicts and findings, newest last. Times are UTC.

    QUERY is terms like agent:rome-*, dest:203.0.113.0/24, port:8000-8100, bytes>1mb, since:2h, joined with and, or,
    not (or -) and parentheses; adjacent terms must all match. Quote characters that the shell interprets. Options
    narrow the result further.
    """
    if fields:
        _fields()
        return
    human = output in ("human", "table")
    _check(sort, counted=bool(count_by))
    now = time.time()
    wanted = Filter(
        query=checked(words, now),
        now=now,
        agent=agent,
        signature=signature,
        action=Action(action) if action else None,
        dest=dest,
        since=since,
        until=until,
        limit=limit,
    )
    if count_by:
        if page != 1:
            raise click.UsageError("--page applies to flows; for counts use --limit")
        with records(config) as engine:
            counts.print_counts(engine, wanted, count_by, sort, output, HUMAN_LIMIT if human else None)
        return
    if limit is None and human:
        wanted = replace(wanted, limit=HUMAN_LIMIT)
    if wanted.limit is None and page != 1:
        raise click.UsageError("--page needs --limit, the number of flows of a page")
    wanted = replace(wanted, sort=sort, skip=(page - 1) * (wanted.limit or 0))
    with records(config) as engine:
        if human:
            _human(engine, wanted, page, processes=processes)
            return
        with closing(flow_details(engine, wanted)) as found:
            {"json": _json, "jsonl": _jsonl, "csv": _csv}[output](found)


def _check(sort: str, *, counted: bool) -> None:
    """Raise UsageError if flows, or counts of flows, cannot be sorted by this field."""
    known = counts.ORDERS if counted else tuple(SORTS)
    if sort and sort.removeprefix("-") not in known:
        kind = "counts are" if counted else "flows are"
        raise click.UsageError(f"{kind} sorted by one of {', '.join(known)}")


def _fields() -> None:
    """Print the fields of QUERY, with their operators and meanings."""
    rows = [[name, ": = !=" + (" < <= > >=" if field.ordered else ""), field.about] for name, field in FIELDS.items()]
    table(("field", "operators", "meaning"), rows)
    click.echo("\nValues may be lists (action:reject,drop), globs (*.example.com), ranges (port:1-1023), in quotes.")
    click.echo("Adjacent terms must all match; or, and, not (also -) and parentheses combine them otherwise.")


def _human(engine: Engine, wanted: Filter, page: int, *, processes: bool) -> None:
    # A pipe has no width: lines are not folded there, for grep.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    count = refused = 0
    with closing(flow_details(engine, wanted)) as found:
        while chunk := list(islice(found, TABLE_ROWS)):
            console.print(flow_table(chunk, console.width, processes=processes))
            count += len(chunk)
            refused += sum(details.flow.action is not Action.ACCEPT for details in chunk)
    if not count:
        click.echo(_nothing(engine, wanted))
        return
    limit = wanted.limit or count
    with closing(flows(engine, replace(wanted, limit=1, skip=wanted.skip + limit))) as found_before:
        more = count == limit and next(found_before, None) is not None
    text = f"{'1 flow' if count == 1 else f'{count} flows'}, {refused} refused"
    older = "others" if wanted.sort else "older ones"
    click.echo(text + (f"; there are {older}: --limit {limit * 10} or --page {page + 1}" if more else ""))


def _nothing(engine: Engine, wanted: Filter) -> str:
    """Return the message for an empty result: the probable reason, and what to try."""
    if wanted.skip:
        return "This page has no flows; use a smaller --page."
    if replace(wanted, limit=None, now=0.0, sort="") != Filter():
        return "No flow matches; drop a filter, or widen --since and --until."
    waiting = "" if chosen_case() or agents(engine) else " Start `egress gateway` or `egress run` to record some."
    return f"No flow is recorded yet.{waiting}"


def _json(found: Iterable[FlowDetails]) -> None:
    """Write one JSON document while records are read: {"flows": [EVE flow with its findings and process, …]}."""
    click.echo('{"flows": [', nl=False)
    separator = "\n"
    for details in found:
        click.echo(separator + json.dumps(flow_mapping(details)), nl=False)
        separator = ",\n"
    click.echo("\n]}")


def _jsonl(found: Iterable[FlowDetails]) -> None:
    for details in found:
        click.echo(json.dumps(flow_mapping(details)))


def _csv(found: Iterable[FlowDetails]) -> None:
    csvtext.write((*_CSV, "signatures", "process", *_PROCESS), map(_row, found))


def _row(details: FlowDetails) -> list[object]:
    signatures = " ".join(dict.fromkeys(finding.signature for finding in details.findings))
    status = "" if details.process is None else details.process.status
    process = ["" if details.process is None else getattr(details.process, name) for name in _PROCESS]
    return [*(_field(details.flow, name) for name in _CSV), signatures, status, *process]


def _field(flow: FlowRecord, name: str) -> object:
    value = getattr(flow, name)
    if name in ("start", "updated", "end"):
        return "" if value is None else iso(value)
    return " ".join(value) if isinstance(value, tuple) else value  # -o json has the exact text
