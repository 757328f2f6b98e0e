"""`egress gateway`: guards the attached agents, in the foreground."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import click

from egress.config import load_config
from egress.errors import InputError

EXAMPLES = """\b
Examples:
  egress gateway                                   config and policy from /etc/egress, where they exist
  egress gateway --policy allow.yaml --workers 2   other rules, two queue workers
  kill -HUP $(head -1 /run/egress/gateway.lock)    read the policy file again
Edits of the allowlist and of agents need no signal: they are in force within a fifth of a second.
Stop it with Ctrl-C or SIGTERM: agents stay blocked until it starts again. `on_stop: remove` in the config lets them go.
"""


@click.command("gateway", epilog=EXAMPLES)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file [/etc/egress/egress.yaml].")
@click.option("--policy", type=click.Path(path_type=Path), help="Policy file; overrides the config's.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of worker processes [one per CPU].")
@click.option("--exit-when-idle", is_flag=True, help="End when the last sandbox of `egress run` is gone.")
@click.option(
    "--capture", type=click.Path(path_type=Path), metavar="DIR", help="Write judged packets to pcapng files in DIR."
)
def command(
    config_file: Path | None, policy: Path | None, workers: int | None, exit_when_idle: bool, capture: Path | None
) -> None:
    """Guard the attached agents until SIGTERM or Ctrl-C. Needs root.

    It runs in the foreground, judges packets from netfilter queues in unprivileged workers, installs its own nftables
    table, and records its decisions in the database. While a worker is missing, its agents are cut off (fail closed).
    While the database is away, the last policy and agents stay in force, even across a restart.
    """
    from egress.gateway.supervisor import supervisor

    logging.basicConfig(format="egress: %(message)s")
    logging.getLogger("egress").setLevel(logging.INFO)
    config = load_config(config_file)
    if workers is not None:
        config = dataclasses.replace(config, workers=workers)
    if capture is not None and not capture.is_dir():
        raise InputError(f"--capture: {capture} is not a directory; create it first, writable by root")
    options = supervisor.Options(
        policy=policy.absolute() if policy else None,
        capture=str(capture.absolute()) if capture else "",
        exit_when_idle=exit_when_idle,
    )
    supervisor.run(config, options)
