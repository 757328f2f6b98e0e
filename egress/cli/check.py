"""`egress check`: judges a destination by the rules in force for an agent. Nothing is sent."""

from __future__ import annotations

import sys

import click

from egress.cli.input.client import ApiClient, api_options
from egress.cli.output.tables import as_json, output_option
from egress.cli.output.text import plain
from egress.whatif.check import read_target

EXAMPLES = """\b
Examples:
  egress check example.org:443 --agent rome-7
  egress check 192.0.2.53:53/udp --agent rome-7 --app dns
  egress check '[2001:db8::7]:22' --agent rome-7 -o json
"""


@click.command("check", epilog=EXAMPLES)
@click.argument("target", metavar="HOST:PORT[/PROTOCOL]")
@click.option("--agent", required=True, metavar="NAME", help="The agent to ask about.")
@click.option("--app", default="", help="Application protocol: tls, ssh, http, …")
@click.option("--address", default="", help="If HOST is a name: the address it resolves to.")
@output_option
@api_options
def command(*, api: ApiClient, target: str, agent: str, app: str, address: str, output: str) -> None:
    """Report whether an agent may reach a destination.

    The answer names the rule, and the conditions under which the answer holds. Nothing is sent.
    Exit code 0: allowed; 3: refused.
    """
    asked = read_target(target)
    question = {
        "agent": agent,
        "destination": asked.destination,
        "port": asked.port,
        "protocol": asked.protocol,
        "app": app,
        "address": address,
    }
    answer = api.post("/check", {key: value for key, value in question.items() if value != ""})
    if output == "json":
        as_json(answer)
    else:
        click.echo(f"{'allowed' if answer['allowed'] else 'refused'}: {plain(answer['explanation'])}")
        for condition in answer["conditions"]:
            click.echo(f"  {plain(condition)}")
    sys.exit(0 if answer["allowed"] else 3)
