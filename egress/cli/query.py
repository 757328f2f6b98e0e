"""`egress query`: which flows happened, what was decided, what was found."""

from __future__ import annotations

import csv
import ipaddress
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import Engine

from egress.cli.text import endpoint, plain, size, when
from egress.config import load_config
from egress.eve import iso, to_eve
from egress.model import Action, FindingRecord, FlowRecord, Mode, Reason
from egress.store.database import open_database
from egress.store.reader import Filter, agents, stories

HUMAN_LIMIT = 100  # flows shown to people unless they ask for more

_Story = tuple[FlowRecord, tuple[FindingRecord, ...]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_AGO = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_COLOURS = {Action.ACCEPT: "green", Action.REJECT: "red", Action.DROP: "red"}
_CSV = (
    "start", "updated", "end", "flow_id", "agent", "action", "reason", "mode", "direction", "state", "proto", "src",
    "sport", "dst", "dport", "app_proto", "server_name", "packets_out", "packets_in", "bytes_out", "bytes_in",
    "unseen_bytes", "rule_id", "policy_version", "community_id",
)  # fmt: skip


class _Time(click.ParamType[float]):
    """A moment: ISO 8601 (UTC where it names no zone), or how long ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        if match := _AGO.fullmatch(text):
            return time.time() - int(match[1]) * _UNITS[match[2]]
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no time; write 2026-11-23T15:00 (UTC) or 15m, 2h, 1d for that long ago", param, ctx)


class _Destination(click.ParamType[_Network]):
    """An address or a CIDR."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> _Network:
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return value
        try:
            return ipaddress.ip_network(str(value), strict=False)
        except ValueError:
            self.fail(f"{value!r} is no address; write one like 192.0.2.7 or a CIDR like 192.0.2.0/24", param, ctx)


EXAMPLES = """\b
Examples:
  egress query --since 2h                                what passed and what did not
  egress query --agent 'rome-*' --action reject          refusals of some agents
  egress query --signature 'ssh.*' --dest 203.0.113.0/24 -o json
"""


@click.command("query", epilog=EXAMPLES)
@click.option("--agent", default="", metavar="GLOB", help="Only this agent, or those that match.")
@click.option("--signature", default="", metavar="GLOB", help="Only flows with such a finding, e.g. mining.*")
@click.option("--action", type=click.Choice([action.value for action in Action]), help="Only flows so decided.")
@click.option("--dest", type=_Destination(), metavar="CIDR", help="Only flows to this address or network.")
@click.option("--since", type=_Time(), metavar="TIME", help="Only flows active then or later: 2026-11-23T15:00 or 2h.")
@click.option("--until", type=_Time(), metavar="TIME", help="Only flows begun by then.")
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help=f"The newest N flows (human: {HUMAN_LIMIT}, otherwise all)."
)
@click.option("-o", "--output", type=click.Choice(["human", "json", "csv"]), default="human", show_default=True)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file, for its database.")
def command(
    agent: str,
    signature: str,
    action: str | None,
    dest: _Network | None,
    since: float | None,
    until: float | None,
    limit: int | None,
    output: str,
    config: Path | None,
) -> None:
    """Show flows with their verdicts and findings, the newest last. Times are UTC."""
    wanted = Filter(agent, signature, Action(action) if action else None, dest, since, until, limit)
    engine = open_database(load_config(config).database_url, create=False)
    try:
        if output == "human":
            _human(engine, wanted)
            return
        with closing(stories(engine, wanted)) as found:
            (_json if output == "json" else _csv)(found)
    finally:
        engine.dispose()


def _human(engine: Engine, wanted: Filter) -> None:
    limit = wanted.limit or HUMAN_LIMIT
    with closing(stories(engine, replace(wanted, limit=limit + 1))) as found:
        shown = list(found)
    if not shown:
        click.echo(_nothing(engine, wanted))
        return
    more = len(shown) > limit
    shown = shown[-limit:]
    # A pipe has no width: lines are then as long as they need to be, for grep.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    console.print(_table(shown))
    flows = "1 flow" if len(shown) == 1 else f"{len(shown)} flows"
    refused = sum(flow.action is not Action.ACCEPT for flow, _ in shown)
    click.echo(f"{flows}, {refused} refused" + (f"; there are older ones: --limit {limit * 10}" if more else ""))


def _nothing(engine: Engine, wanted: Filter) -> str:
    if wanted != Filter(limit=wanted.limit):
        return "No flow matches; leave out a filter, or widen --since and --until."
    waiting = "" if agents(engine) else " Start `egress gateway` or `egress run` to watch some."
    return f"No flow is recorded yet.{waiting}"


def _table(shown: list[_Story]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("flow", "time (UTC)", "agent", "action", "proto", "source", "destination", "app", "name"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("why", overflow="fold")
    for flow, findings in shown:
        table.add_row(*_cells(flow, findings))
    return table


def _cells(flow: FlowRecord, findings: tuple[FindingRecord, ...]) -> Iterator[Text]:
    """One row; Text, because a string would be read as markup."""
    action = flow.action if flow.mode is Mode.ENFORCE else f"{flow.action} ({flow.mode})"
    yield Text(plain(flow.flow_id)[:8])
    yield Text(when(flow.start))
    yield Text(plain(flow.agent))
    yield Text(action, style=_COLOURS[flow.action])
    yield Text(plain(flow.proto))
    yield Text(plain(flow.src))
    yield Text(endpoint(flow.dst, flow.dport))
    yield Text(plain(flow.app_proto))
    yield Text(plain(flow.server_name))
    yield Text(size(flow.bytes_out + flow.bytes_in))
    yield Text(plain(_why(flow, findings)))


def _why(flow: FlowRecord, findings: tuple[FindingRecord, ...]) -> str:
    """The signatures that objected, and the verdict's reason where it is another one."""
    signatures = list(dict.fromkeys(finding.signature for finding in findings))
    if flow.reason is Reason.FINDING and signatures:
        return ", ".join(signatures)
    reason = f"{flow.reason} {flow.rule_id}".rstrip()
    return ", ".join([reason, *signatures])


def _json(found: Iterable[_Story]) -> None:
    """One document, written as it is read: {"flows": [EVE flow with "findings": [EVE alert, …], …]}."""
    click.echo('{"flows": [', nl=False)
    separator = "\n"
    for flow, findings in found:
        document = {**to_eve(flow), "findings": [to_eve(finding) for finding in findings]}
        click.echo(separator + json.dumps(document), nl=False)
        separator = ",\n"
    click.echo("\n]}")


def _csv(found: Iterable[_Story]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*_CSV, "signatures"])
    for flow, findings in found:
        signatures = " ".join(dict.fromkeys(finding.signature for finding in findings))
        writer.writerow([*(_field(flow, name) for name in _CSV), plain(signatures)])


def _field(flow: FlowRecord, name: str) -> object:
    value = getattr(flow, name)
    if name in ("start", "updated", "end"):
        return "" if value is None else iso(value)
    return plain(value) if isinstance(value, str) else value  # -o json has the exact text
