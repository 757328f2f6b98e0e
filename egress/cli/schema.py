"""`egress schema`: what a record looks like, for people and for programs."""

from __future__ import annotations

import click

from egress.cli.output.tables import table
from egress.records import schema

EXAMPLES = """\b
Examples:
  egress schema                                  every key of every record
  egress schema flow                             of one event_type
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
    help="For whom.",
)
def command(event: str | None, output: str) -> None:
    """Show the schema of the records: of the journal's lines, and of what is stored."""
    known = schema.events()
    if event is not None and event not in known:
        raise click.UsageError(f"no record has event_type {event}; there are {', '.join(known)}")
    if output == "json":
        click.echo(schema.text(), nl=False)
    elif output == "markdown":
        click.echo(schema.markdown(), nl=False)
    else:
        _show([event] if event else list(known))


def _show(names: list[str]) -> None:
    for name in names:
        click.echo(f"{name}: {schema.events()[name]['description']}\n")
        rows = [(each.path, each.kind.replace("`", ""), each.meaning) for each in schema.fields(name)]
        table(("key", "value", "meaning"), rows)
        click.echo()
