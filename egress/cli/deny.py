"""`egress deny`: adds a rule that denies agents a destination, even if other rules allow it."""

from __future__ import annotations

import click

from egress.cli.input.client import ApiClient, api_options
from egress.cli.input.ruleoptions import make, rule_options
from egress.cli.output.tables import output_option

EXAMPLES = """\b
Examples:
  egress deny 10.0.0.0/8                          the internal network, for every agent
  egress deny '**.example.net' --agent ci --for 1d
  egress deny any --agent rome-7 --port 25        no mail from this agent
"""


@click.command("deny", epilog=EXAMPLES)
@rule_options
@output_option
@api_options
def command(*, api: ApiClient, output: str, dry_run: bool, rule_id: str, **fields: object) -> None:
    """Deny agents access to DEST.

    DEST is any, an address, a CIDR, or a name. A deny rule beats allow rules; live connections are cut.
    """
    make(api, "deny", {**fields, "id": rule_id}, output, dry_run=dry_run)
