"""`egress agent add|list|rm`: attach what already exists to the gateway."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from egress.budgettext import budget_text
from egress.cli.budget import budget_option
from egress.cli.text import plain
from egress.config import Config, load_config
from egress.errors import EgressError
from egress.gateway import attach
from egress.gateway.control import Client, NotRunning
from egress.gateway.runtime import prepare
from egress.model import Action, Agent, Budget, Mode
from egress.store.agents import StoredAgent, add_agent, list_agents, remove_agent
from egress.store.database import open_database

EXAMPLES = """\b
Examples:
  egress agent add trainer --netns trainer           a network namespace (its veth's other end is found)
  egress agent add docker --interface docker0        everything behind a bridge or veth
  egress agent add vm7 --cidr 10.0.7.0/24@br-lab     one network behind an interface that others share
  egress agent add ci --netns ci --label gpu --budget bytes=10mb/hour --budget destinations=20/episode
  egress agent list -o json
  egress agent rm trainer
"""
_CONFIG = click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")


@click.group("agent", epilog=EXAMPLES)
def command() -> None:
    """Attach, list and detach agents. A running gateway follows at once."""


@command.command("add", epilog=EXAMPLES)
@click.argument("name")
@click.option("--netns", help="A network namespace, by name (ip netns).")
@click.option("--interface", help="A veth, tap or bridge interface of this host.")
@click.option("--cidr", metavar="CIDR@IF", help="A network behind an interface.")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), default="enforce", show_default=True)
@click.option("--default", "default", type=click.Choice(["allow", "deny"]), default="deny", show_default=True)
@click.option("--label", "labels", multiple=True, help="A word that rules can name (label:GLOB); may be repeated.")
@budget_option
@_CONFIG
def add(
    name: str,
    netns: str | None,
    interface: str | None,
    cidr: str | None,
    mode: str,
    default: str,
    labels: tuple[str, ...],
    budgets: tuple[Budget, ...],
    config_file: Path | None,
) -> None:
    """Attach what exists as agent NAME. Without a rule that allows it, nothing of it passes (--default deny)."""
    given = [(kind, value) for kind, value in (("netns", netns), ("interface", interface), ("cidr", cidr)) if value]
    if len(given) != 1:
        raise click.UsageError("give exactly one of --netns, --interface, --cidr")
    kind, value = given[0]
    config = load_config(config_file)
    place = attach.resolve(kind, value, name)
    own = place.networks if kind == "netns" else ()  # whoever is root in there may give it other addresses later
    otherwise = Action.ACCEPT if default == "allow" else Action.REJECT
    agent = Agent(name, own, Mode(mode), otherwise, labels, budgets)
    prepare(config)
    database = open_database(config.database_url)
    try:
        add_agent(database, StoredAgent(agent, kind, value))
    finally:
        database.dispose()
    networks = ", ".join(place.networks[:4]) + (f" and {more} more" if (more := len(place.networks) - 4) > 0 else "")
    click.echo(f"agent {name}: {kind} {value}, behind {place.interface}, networks {networks}")
    _reload(config)


@command.command("list", epilog=EXAMPLES)
@click.option("-o", "output", type=click.Choice(["human", "json"]), default="human", show_default=True)
@_CONFIG
def list_(output: str, config_file: Path | None) -> None:
    """Show the attached agents."""
    config = load_config(config_file)
    database = open_database(config.database_url, create=False)
    try:
        stored = list_agents(database)
    finally:
        database.dispose()
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(entry) for entry in stored], indent=2))
        return
    for entry in stored:
        click.echo(_line(entry))
    if not stored:
        click.echo("no agents; attach one with: egress agent add", err=True)


def _line(entry: StoredAgent) -> str:
    agent = entry.agent
    default = "allow" if agent.default is Action.ACCEPT else "deny"
    labels = f"labels {', '.join(agent.labels)}" if agent.labels else ""
    budgets = f"budgets {', '.join(map(budget_text, agent.budgets))}" if agent.budgets else ""
    more = plain("; ".join(filter(None, (labels, budgets))))
    return f"{agent.name:24} {entry.kind:9} {entry.value:28} {agent.mode:8} default {default:6} {more}".rstrip()


@command.command("rm", epilog=EXAMPLES)
@click.argument("name")
@_CONFIG
def rm(name: str, config_file: Path | None) -> None:
    """Detach agent NAME: nothing guards it from then on. What it did stays in the database."""
    config = load_config(config_file)
    database = open_database(config.database_url, create=False)
    try:
        gone = remove_agent(database, name)
    finally:
        database.dispose()
    click.echo(f"agent {name} ({gone.kind} {gone.value}) is detached and unguarded from now on")
    _reload(config)


def _reload(config: Config) -> None:
    try:
        with Client(config.control_socket) as client:
            answer = client.call("reload")
    except NotRunning:
        click.echo("no gateway runs: nothing is guarded until `egress gateway` is started", err=True)
        return
    if answer["problem"]:
        raise EgressError(str(answer["problem"]))
