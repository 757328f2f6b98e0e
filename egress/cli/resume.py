"""`egress resume`: guards agents again after other programs changed the kernel rules too often."""

from __future__ import annotations

from pathlib import Path

import click

from egress.config import load_config
from egress.control import Client

EXAMPLES = """\b
Examples:
  egress resume    agents may use the network again, as the policy allows
"""


@click.command("resume", epilog=EXAMPLES)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
def command(config_file: Path | None) -> None:
    """Guard agents again that were cut off for changed kernel rules.

    Needs root and a running gateway. The gateway cuts all agents off when another program has changed its kernel rules
    `tamper_limit` times within a minute: find that program first. The audit trail records who resumed.
    """
    from egress.store.policy.audit import local_actor

    config = load_config(config_file)
    with Client(config.control_socket) as client:
        resumed = client.call("resume", actor=local_actor().name)["resumed"]
    click.echo("agents are guarded again" if resumed else "agents were not cut off: nothing to resume")
