"""`egress observe`: shows the newest records and, with -f, new ones as they are stored."""

from __future__ import annotations

import io
import json
import select
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import click

from egress.cli.input.queries import QueryCommand, checked, config_option, query_argument, records
from egress.cli.output.oneline import brief
from egress.cli.output.text import plain, when
from egress.model import Action
from egress.records.eve import to_eve
from egress.records.shape import AnomalyRecord, FlowRecord, FoldedRecord, ProcessRecord
from egress.store.database.commits import Watch
from egress.store.database.handles import Engine
from egress.store.query.reader import Filter
from egress.store.query.tail import Observed, Tail

POLL = 0.25  # seconds

EXAMPLES = """\b
Examples:
  egress observe -f                               every decision, as it is stored
  egress observe -f agent:rome-* -action:accept   refusals of some agents
  egress observe -n 1000 signature:ssh.* -o jsonl
"""


@click.command("observe", cls=QueryCommand, epilog=EXAMPLES)
@query_argument
@click.option("-f", "--follow", is_flag=True, help="Keep showing new records, until Ctrl-C.")
@click.option("-n", "--limit", type=click.IntRange(0), default=20, show_default=True, help="Begin with the newest N.")
@click.option(
    "-o", "--output", type=click.Choice(["human", "jsonl"]), default="human", show_default=True, help="Output format."
)
@config_option
def command(*, words: tuple[str, ...], follow: bool, limit: int, output: str, config: Path | None) -> None:
    """Show the newest records; -f follows new ones.

    Flows, their processes and findings are shown one per line, newest last. QUERY is as in `egress query`. A flow is
    shown again when it changes. Without a query, refused packets that belong to no flow are shown too. Times are UTC.
    """
    now = time.time()
    wanted = Filter(query=checked(words, now), now=now)
    show = _json if output == "jsonl" else _human
    with records(config) as engine:
        tail = Tail(engine, wanted)
        try:
            _write(tail.newest(limit), show)
            if follow:
                _follow(engine, tail, show)
        except KeyboardInterrupt:
            return  # Ctrl-C ends the command


def _follow(engine: Engine, tail: Tail, show: Callable[[Observed], str]) -> None:
    """Print new records as they are stored, until the reader of standard output closes it."""
    # PostgreSQL notifies of edits only, so records are polled there.
    watch = Watch(engine) if engine.dialect.name == "sqlite" else None
    if watch is None:
        while _waited():
            _write(tail.later(), show)
        return
    with closing(watch):
        missed = True  # records may have been stored before the watch began
        while _waited():
            if watch.changed() or missed:
                found = tail.later()
                missed = bool(found)
                _write(found, show)


def _waited() -> bool:
    """Wait until the next poll of the database. Returns False if the reader of standard output has closed it."""
    try:
        output = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):
        time.sleep(POLL)
        return True
    poll = select.poll()
    poll.register(output, 0)
    return not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(POLL * 1000))


def _write(found: Iterable[Observed], show: Callable[[Observed], str]) -> None:
    for record in found:
        click.echo(show(record))


def _json(record: Observed) -> str:
    return json.dumps(to_eve(record))


def _human(record: Observed) -> str:
    moment = record.updated if isinstance(record, FlowRecord) else record.time
    return f"{when(moment)}  {plain(record.agent)}  {click.style(brief(record), fg=_colour(record))}"


def _colour(record: Observed) -> str:
    if isinstance(record, FlowRecord):
        return {Action.ACCEPT: "green", Action.HOLD: "yellow"}.get(record.action, "red")
    if isinstance(record, ProcessRecord):
        return "cyan"
    return "yellow" if isinstance(record, AnomalyRecord | FoldedRecord) else "bright_red"
