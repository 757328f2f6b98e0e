"""`egress audit list|verify`: lists the changes in the audit trail, and verifies its chain of hashes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from egress.cli.input.client import ApiClient, api_options
from egress.cli.input.params import Listing
from egress.cli.output.tables import as_json, output_option, table
from egress.errors import EgressError
from egress.gateway.supervisor import snapshot as snapshots

EXAMPLES = """\b
Examples:
  egress audit                                   the newest changes
  egress audit list --since 1d --actor 'token:*' -o json
  egress audit verify                            exit code 3: the chain is broken
  egress audit verify --head 6:9f86d081…         and entry 6, which was seen before, is still there
  egress audit verify --snapshot                 and the entry that this host's gateway saw last
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
@click.option(
    "--head", default="", metavar="[N:]HASH", help="An entry seen before: as a gateway logged it, or this command."
)
@click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=Path(),
    help="The entry in a gateway's snapshot (policy.json); without a path, this host's.",
)
@output_option
@api_options
def verify(*, api: ApiClient, output: str, head: str, snapshot: Path | None) -> None:
    """Recompute the chain of hashes. Exit code 3: it is broken.

    The chain alone cannot show that its end was cut off. Give an entry that was seen before: gateways log the head with
    each edit ("audit trail: entry N, head HASH") and keep it in their snapshot.
    """
    if snapshot is not None:
        if head:
            raise click.UsageError("give --head or --snapshot, not both")
        head = _seen_by_gateway(snapshot if snapshot.name else api.policy_snapshot)
    found = api.get("/audit/verify", head=head)
    if output == "json":
        as_json(found)
    elif found["broken"] is None:
        click.echo(f"{found['count']} entries, unbroken; head {found['head']}")
    else:
        click.echo(f"BROKEN at entry {found['broken']}: {found['why']}", err=True)
    sys.exit(0 if found["broken"] is None else 3)


def _seen_by_gateway(path: Path) -> str:
    """Read the newest entry in a gateway's snapshot. Raises EgressError."""
    known = snapshots.read(path)
    if known is None or not known.head:
        raise EgressError(
            f"{path} has no head of the audit trail: name the snapshot of a gateway that runs this version"
        )
    return f"{known.audit}:{known.head}"
