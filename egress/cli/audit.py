"""`egress audit list|verify`: lists the changes in the audit trail, and verifies its chain of hashes."""

from __future__ import annotations

import sys

import click

from egress.cli.input.client import ApiClient, api_options
from egress.cli.input.params import Listing
from egress.cli.output.tables import as_json, output_option, table

EXAMPLES = """\b
Examples:
  egress audit                                   the newest changes
  egress audit list --since 1d --actor 'token:*' -o json
  egress audit verify                            exit code 3: the chain is broken
"""
COLUMNS = ("seq", "time", "actor", "action", "target", "request_id")


@click.group("audit", cls=Listing, epilog=EXAMPLES)
def command() -> None:
    """List the changes in the audit trail, and verify it."""


@command.command("list", epilog=EXAMPLES)
@click.option("--since", default="", metavar="TIME", help="Changes made then or later: 1d, an instant.")
@click.option("--until", default="", metavar="TIME", help="Changes made by then.")
@click.option("--actor", default="", metavar="GLOB", help="Changes by these actors: token:*, uid:0*.")
@click.option(
    "--action", default="", metavar="GLOB", help="Changes of this kind: rule.*, agent.quarantine, token.create, …"
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The newest N.")
@output_option
@api_options
def list_(*, api: ApiClient, output: str, limit: int, **filters: object) -> None:
    """List changes, newest first. -o json includes the values before and after."""
    found = list(api.pages("/audit", limit, **filters))
    if output == "json":
        as_json(found)
    elif found:
        table(COLUMNS, [[each.get(column) for column in COLUMNS] for each in found])
    else:
        click.echo("no recorded change matches", err=True)


@command.command("verify", epilog=EXAMPLES)
@output_option
@api_options
def verify(*, api: ApiClient, output: str) -> None:
    """Recompute the chain of hashes. Exit code 3: it is broken.

    Keep a copy of the head elsewhere: only a copy reveals that the end of the trail was cut off.
    """
    found = api.get("/audit/verify")
    if output == "json":
        as_json(found)
    elif found["broken"] is None:
        click.echo(f"{found['count']} entries, unbroken; head {found['head']}")
    else:
        click.echo(f"BROKEN at entry {found['broken']}: {found['why']}", err=True)
    sys.exit(0 if found["broken"] is None else 3)
