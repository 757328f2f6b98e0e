"""`egress schema`: prints the schema of records, as a table, JSON Schema or Markdown."""

from __future__ import annotations

import click

from egress.cli.output.tables import table
from egress.records import schema
from egress.records.eve import EVENTS

EXAMPLES = """\b
Examples:
  egress schema                                  the keys of all records
  egress schema flow                             the keys of one event_type
  egress schema -o json > records.schema.json    JSON Schema (draft 2020-12), to validate journal lines with
  egress schema -o markdown                      as in docs/records.md
"""


@click.command("schema", epilog=EXAMPLES)
@click.argument("event", required=False, metavar="[EVENT_TYPE]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["human", "json", "markdown"]),
    default="human",
    show_default=True,
    help="Output format.",
)
def command(event: str | None, output: str) -> None:
    """Print the schema of records, or of one EVENT_TYPE.

    -o json and -o markdown print the schema of all records in any case.
    """
    if event is not None and event not in EVENTS:
        raise click.UsageError(f"{event} is not a valid event_type; it must be one of {', '.join(EVENTS)}")
    if output == "json":
        click.echo(schema.text(), nl=False)
    elif output == "markdown":
        click.echo(schema.markdown(), nl=False)
    else:
        _show([event] if event else list(EVENTS))


def _show(names: list[str]) -> None:
    for name in names:
        click.echo(f"{name}: {EVENTS[name].about}\n")
        rows = [(each.path, each.kind.replace("`", ""), each.meaning) for each in schema.keys(EVENTS[name])]
        table(("key", "value", "meaning"), rows)
        click.echo()
