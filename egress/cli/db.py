"""`egress db upgrade|status|prune`: upgrades the database's schema, shows its contents, deletes old records."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from egress.cli.input.params import Time, chosen_case
from egress.cli.input.queries import config_option
from egress.cli.output.tables import as_json, output_option, table
from egress.cli.output.text import size, when
from egress.config import Config, load_config
from egress.errors import EgressError
from egress.store.cases.cases import case_url, upgrade_case
from egress.store.database.clock import clock
from egress.store.database.database import HEAD, Schema, open_database, schema
from egress.store.database.handles import Engine
from egress.store.recording import retention
from egress.store.recording.recorder import Lag, lag
from egress.store.recording.sizes import Holdings, holdings

EXAMPLES = """\b
Examples:
  egress db status                     contents, age and size
  egress db upgrade --dry-run          the schema revisions that are missing
  egress db prune --older-than 30d     delete older records now
"""
PROGRESS_SECONDS = 1.0  # between two progress messages


@click.group("db", epilog=EXAMPLES)
def command() -> None:
    """Upgrade, inspect and prune the database."""


@command.command("upgrade", epilog=EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@output_option
@config_option
def upgrade(*, dry_run: bool, output: str, config: Path | None) -> None:
    """Upgrade the database, or a case, to this program's schema.

    `--case` names the case. A missing database is created. The gateway does the same when it starts. An upgrade cannot
    be undone: make a backup first.
    """
    settings, case = load_config(config), chosen_case()
    found = schema(_url(settings))
    if output != "json":
        for revision, about in found.missing:
            click.echo(f"{revision}  {about}")
    if found.missing and not dry_run:
        began = time.monotonic()
        if case:
            upgrade_case(settings, case)
        else:
            open_database(settings.database_url).dispose()
        done = f"{found.name}: {_revision(found)} to {HEAD} in {time.monotonic() - began:.1f} s"
    elif found.missing:
        done = f"{found.name}: would go from {_revision(found)} to {HEAD}; nothing was done"
    else:
        done = f"{found.name}: already at {HEAD}"
    if output == "json":
        revisions = [revision for revision, _ in found.missing]
        facts = {"database": found.name, "from": found.revision or None, "to": HEAD, "revisions": revisions}
        as_json(facts | {"done": bool(revisions) and not dry_run})
    else:
        click.echo(done)


@command.command("status", epilog=EXAMPLES)
@output_option
@config_option
def status(*, output: str, config: Path | None) -> None:
    """Show the database's location, schema and contents. Nothing is changed.

    ~ marks PostgreSQL's estimate of a number of rows. The column days has the number of PostgreSQL's partitions, one
    for each day; SQLite has none. Exit code 1: the schema is old, or there is no database.
    """
    settings = load_config(config)
    url = _url(settings)
    found = schema(url)
    held, behind = None, None
    if not found.missing:
        engine = open_database(url, create=False, migrate=False)
        try:
            with engine.connect() as connection:
                held = holdings(connection)
            behind = lag(settings, engine)
        except OSError as error:
            raise EgressError(f"cannot read {settings.journal_dir}: {error.strerror}; use sudo") from None
        finally:
            engine.dispose()
    if output == "json":
        as_json(_document(settings, found, held, behind))
    else:
        _show(settings, found, held, behind)
    sys.exit(0 if held is not None else 1)


@command.command("prune", epilog=EXAMPLES)
@click.option(
    "--before",
    type=Time(),
    metavar="TIME",
    help="Delete records older than this, instead of those past the config's retention.",
)
@click.option("--older-than", "older", type=Time(), metavar="SPAN", help="The same, as a duration: 30d.")
@click.option("--dry-run", is_flag=True, help="Count the records; delete nothing.")
@output_option
@config_option
def prune(*, before: float | None, older: float | None, dry_run: bool, output: str, config: Path | None) -> None:
    """Delete old records.

    These are the records past the config's retention, or those before a given time, in the config's database. The
    recorder of a running gateway deletes those past the retention by itself. New records can be written meanwhile.
    Live flows, policies, the audit trail and tokens are kept. Exit code 1: a day that should be deleted is being read.
    """
    if before is not None and older is not None:
        raise click.UsageError("give --before or --older-than, not both")
    if case := chosen_case():
        raise click.UsageError(
            f"a case is kept whole: egress case rm {case} deletes it. Without --case: the live database"
        )
    settings = load_config(config)
    engine = open_database(settings.database_url, create=False, migrate=False)
    try:
        moment = before if before is not None else older
        wanted = retention.older(moment) if moment is not None else _configured(engine, settings)
        if dry_run:
            with engine.connect() as connection:
                gone, busy = Counter(retention.count(connection, wanted)), ""
        else:
            gone, busy = _prune(engine, wanted)
    finally:
        engine.dispose()
    if output == "json":
        as_json({"dry_run": dry_run, "gone": gone, "busy": busy or None})
    else:
        counts = ", ".join(f"{number:,} {name}" for name, number in gone.items() if number) or "nothing"
        click.echo(f"{'would delete' if dry_run else 'deleted'}: {counts}")
    if busy:
        raise EgressError(f"{busy} is being read and was not deleted: wait for long queries to end, then prune again")


def _configured(engine: Engine, settings: Config) -> retention.Cuts:
    """Return the times before which the config's retention deletes records, by table."""
    with engine.connect() as connection:
        return retention.cuts(connection, settings.retention, clock(connection)[0])


def _prune(engine: Engine, wanted: retention.Cuts) -> tuple[Counter[str], str]:
    """Delete step by step. Returns the number of deleted rows by table, and a day that could not be deleted.

    The day is empty if all were deleted. A day is kept while a query reads it.
    """
    gone: Counter[str] = Counter()
    busy, printed = "", time.monotonic()
    for step in retention.prune(engine, wanted):
        gone[step.table] += step.count
        busy = step.busy or busy
        if time.monotonic() - printed >= PROGRESS_SECONDS:
            printed = time.monotonic()
            click.echo(f"{gone.total():,} deleted, at {step.table} …", err=True)
    return gone, busy


def _url(settings: Config) -> str:
    """Return the URL of the case that --case names, else of the config's database."""
    case = chosen_case()
    return case_url(settings, case) if case else settings.database_url


def _revision(found: Schema) -> str:
    return found.revision or "nothing"


def _retention_text(settings: Config) -> str:
    kept = settings.retention
    records = f"{kept.days} days" if kept.days else "forever"
    packets = f"{kept.evidence_days} days" if kept.evidence_days else "as long as records"
    most = f", at most {size(kept.evidence_bytes)}" if kept.evidence_bytes else ""
    return f"records {records}; evidence {packets}{most}"


def _show(settings: Config, found: Schema, held: Holdings | None, behind: Lag | None) -> None:
    click.echo(f"database   {found.name}")
    if held is None or behind is None:
        state = f"{found.revision}, old: this program needs {HEAD}" if found.revision else "none yet"
        click.echo(f"schema     {state}; run: egress db upgrade")
        return
    free = f", of which {size(held.free)} free for new records" if held.free else ""
    click.echo(f"schema     {found.revision}, current")
    click.echo(f"size       {size(held.bytes)}{free}; evidence {size(held.evidence_bytes)}")
    click.echo(f"journal    {behind.segments} segments, {size(behind.unread)} not stored yet")
    click.echo(f"retention  {_retention_text(settings)}\n")
    rows = []
    for each in held.records:
        times = ["" if moment is None else when(moment)[:19] for moment in (each.oldest, each.newest)]
        gone = "" if each.pruned is None else f"{each.pruned.count:,}, all before {when(each.pruned.before)[:19]}"
        rows.append([each.table, f"{'' if each.exact else '~'}{each.rows:,}", each.days or "", *times, gone])
    table(("records", "rows", "days", "oldest (UTC)", "newest", "pruned"), rows)


def _document(settings: Config, found: Schema, held: Holdings | None, behind: Lag | None) -> Mapping[str, object]:
    return {
        "database": found.name,
        "revision": found.revision or None,
        "current": not found.missing,
        "wanted": HEAD,
        "retention": dataclasses.asdict(settings.retention),
        "journal": None if behind is None else dataclasses.asdict(behind),
        "holds": None if held is None else dataclasses.asdict(held),
    }
