"""`egress token create|list|revoke`: creates, lists and revokes the tokens of API callers."""

from __future__ import annotations

import click

from egress.cli.input.client import ApiClient, api_options, segment
from egress.cli.output.tables import as_json, output_option, table

EXAMPLES = """\b
Examples:
  egress token create --name ops --role editor
  egress token create --name framework --role reporter --agent rome-7    may report its tool calls
  egress token create --name ci-bot --role editor --agent 'ci-*' --for 30d
  egress token list -o json
  egress token revoke 1f9ac3d2
"""
ROLES = ("viewer", "approver", "editor", "admin", "gateway", "reporter")
COLUMNS = ("id", "name", "role", "agents", "created", "created_by", "expires", "revoked_at", "last_used")


@click.group("token", epilog=EXAMPLES)
def command() -> None:
    """Create, list and revoke the tokens of API callers."""


@command.command("create", epilog=EXAMPLES)
@click.option("--name", required=True, help="The holder; shown in the audit trail.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="The rights of the token (docs/api.md).")
@click.option(
    "--agent", "agents", multiple=True, metavar="GLOB", help="Limit the token to matching agents; may be repeated."
)
@click.option(
    "--for",
    "expires",
    default="",
    metavar="TIME",
    help="Lifetime: 5m, 1h, 30d, until an instant, or forever [forever].",
)
@output_option
@api_options
def create(*, api: ApiClient, name: str, role: str, agents: tuple[str, ...], expires: str, output: str) -> None:
    """Create a token. It is shown once, and stored only as a hash."""
    body = {"name": name, "role": role, "agents": list(agents), "expires": expires}
    made = api.post("/tokens", {key: value for key, value in body.items() if value})
    if output == "json":
        as_json(made)
        return
    click.echo(made["token"])
    click.echo(f"token {made['id']} ({name}, {role}); save it now, it is not shown again", err=True)


@command.command("list", epilog=EXAMPLES)
@output_option
@api_options
def list_(*, api: ApiClient, output: str) -> None:
    """List all tokens, also revoked and expired ones; never secrets."""
    found = list(api.pages("/tokens"))
    if output == "json":
        as_json(found)
    elif found:
        table(COLUMNS, [[_cell(each.get(column)) for column in COLUMNS] for each in found])
    else:
        click.echo("no tokens; create one with: egress token create", err=True)


@command.command("revoke", epilog=EXAMPLES)
@click.argument("token_id", metavar="ID")
@api_options
def revoke(*, api: ApiClient, token_id: str) -> None:
    """Revoke a token. It stops working at once."""
    api.delete(f"/tokens/{segment(token_id)}")
    click.echo(f"token {token_id} is revoked")


def _cell(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value
