"""`egress fleet list|rm|rename`: lists, deletes and renames the hosts whose gateways share one database."""

from __future__ import annotations

import sys
from typing import Any

import click

from egress.cli.input.client import ApiClient, api_options, segment
from egress.cli.input.params import Listing
from egress.cli.output.tables import as_json, output_option, table

EXAMPLES = """\b
Examples:
  egress fleet                        each gateway, its state and policy version
  egress fleet list -o json
  egress fleet rm gpu-3               a host that is gone: delete its agents and policy-file rules
  egress fleet rename gpu-3 gpu-4     before its gateway starts with `host: gpu-4`
"""
COLUMNS = ("host", "state", "seen", "policy_version", "behind", "agents", "skew", "program")


@click.group("fleet", cls=Listing, epilog=EXAMPLES)
def command() -> None:
    """Manage gateways that share a database. An agent belongs to one gateway; the allowlist is shared."""


@command.command("list", epilog=EXAMPLES)
@output_option
@api_options
def list_(*, api: ApiClient, output: str) -> None:
    """List the gateways. Exit code 3: one is silent, or does not enforce the newest policy yet."""
    found = list(api.pages("/gateways"))
    if output == "json":
        as_json(found)
    elif found:
        table(COLUMNS, [[each[column] for column in COLUMNS] for each in found])
    else:
        click.echo("no gateway has run with this database yet; start one with: egress gateway", err=True)
    sys.exit(0 if all(map(_is_current, found)) else 3)


@command.command("rm", epilog=EXAMPLES)
@click.argument("host")
@api_options
def rm(*, api: ApiClient, host: str) -> None:
    """Delete the agents, policy-file rules and pending holds of HOST. Its records are kept.

    Its gateway must not be running.
    """
    api.delete(f"/gateways/{segment(host)}")
    click.echo(f"host {host} is deleted")


@command.command("rename", epilog=EXAMPLES)
@click.argument("host")
@click.argument("name")
@api_options
def rename(*, api: ApiClient, host: str, name: str) -> None:
    """Rename HOST to NAME, with its agents, rules and records. No gateway may be running under either name."""
    api.post(f"/gateways/{segment(host)}/rename", {"name": name})
    click.echo(f"host {host} is now {name}; set `host: {name}` in its config before you start it")


def _is_current(gateway: dict[str, Any]) -> bool:
    """Return True if a gateway was stopped, or is up and enforces the newest policy."""
    return gateway["state"] == "stopped" or (gateway["state"] == "up" and not gateway["behind"])
