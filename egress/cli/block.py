"""`egress block`: cuts the attached agents off in the kernel while no gateway runs."""

from __future__ import annotations

from pathlib import Path

import click

from egress.config import load_config

EXAMPLES = """\b
Examples:
  egress block           cut the agents off until the gateway starts; also ends `egress open`
  egress block --boot    the same, for units: does nothing where the config has `on_stop: remove`
"""


@click.command("block", epilog=EXAMPLES)
@click.option("--boot", is_flag=True, help="For units: do nothing where the config has on_stop: remove.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
def command(config_file: Path | None, *, boot: bool) -> None:
    """Cut the attached agents off until the gateway starts. Needs root.

    The agents are those of the policy snapshot in state_dir. Interfaces are blocked by name, also before they exist, so
    that a unit can call this before the network and Docker start. An agent that is attached by its namespace is blocked
    at the interface that the gateway saw last: if the namespace is recreated with an interface of another name, it is
    not guarded until the gateway runs. The command names each agent whose interface is not known. It ends `egress
    open`. While a gateway runs, the gateway guards the agents, and this command fails.
    """
    from egress.gateway.supervisor import rest

    config = load_config(config_file)
    if boot and config.on_stop == "remove":
        click.echo("on_stop is remove: agents are unguarded until the gateway starts")
        return
    done = rest.block(config)
    for interface, agents in done.interfaces.items():
        click.echo(f"blocked {interface}: {', '.join(agents)}")
    if done.unknown:
        click.echo(f"not blocked, since their interfaces are not known: {', '.join(done.unknown)}", err=True)
    if not done.interfaces and not done.unknown:
        click.echo("no agents are attached to this host")
