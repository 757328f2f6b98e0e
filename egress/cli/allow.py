"""`egress allow`: adds a rule that allows agents to reach a destination."""

from __future__ import annotations

import click

from egress.cli.input.client import ApiClient, api_options
from egress.cli.input.ruleoptions import make, rule_options
from egress.cli.output.tables import output_option

EXAMPLES = """\b
Examples:
  egress allow example.org --port 443                          every agent, without expiry
  egress allow '*.example.org' --agent 'train-*' --port 443 --app tls --for 1h
  egress allow 192.0.2.10 --port 22 --app ssh --comment 'the git server'
  egress allow mirror.corp.example --port 443 --private        a host of your own network
  egress allow 198.51.100.7 --for once                         one connection
  egress allow 192.0.2.9 --port 443 --exempt beacon.timing     a known poller
"""


@click.command("allow", epilog=EXAMPLES)
@rule_options
@click.option(
    "--exempt",
    multiple=True,
    metavar="SIGNATURE",
    help="A signature that this rule exempts: beacon.timing, mining.*, …",
)
@click.option("--unnamed", is_flag=True, help="For a name: also match flows that hide it (no SNI).")
@click.option("--private", is_flag=True, help="For a name: also at addresses that are not global (10.0.0.0/8, …).")
@output_option
@api_options
def command(
    *, api: ApiClient, output: str, dry_run: bool, rule_id: str, exempt: tuple[str, ...], **fields: object
) -> None:
    """Allow agents to reach DEST.

    DEST is any, an address, a CIDR, or a name (example.org, *.example.org, **.example.org). A name is allowed at
    global addresses only, unless --private is given. A cloud metadata address (169.254.169.254) is allowed only by a
    rule for exactly that address. The rule is in force in every worker within a fraction of a second. Deny rules and
    findings still refuse flows. `--for once` allows one connection.
    """
    make(api, "allow", {**fields, "id": rule_id, "exempt": list(exempt)}, output, dry_run=dry_run)
