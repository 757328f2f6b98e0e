"""`egress agent add|list|set|quarantine|release|rm`: attaches, changes and detaches the guarded agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egress.cli.input.budget import budget_option
from egress.cli.input.client import ApiClient, api_options, segment
from egress.cli.output.tables import as_json, output_option
from egress.cli.output.text import plain
from egress.control import Client, NotRunningError
from egress.errors import EgressError
from egress.gateway.sandbox import attach
from egress.model import Budget, Mode
from egress.policy.budgettext import budget_text

EXAMPLES = """\b
Examples:
  egress agent add trainer --netns trainer           a network namespace (the host's end of its veth is found)
  egress agent add docker --interface docker0        everything behind a bridge or veth
  egress agent add vm7 --cidr 10.0.7.0/24@br-lab     one network behind an interface that others share
  egress agent add ci --netns ci --label gpu --budget bytes=10mb/hour --budget destinations=20/episode
  egress agent list -o json                          the agents of all hosts that share the database
  egress agent list --host gpu-1
  egress agent set trainer --mode ask                flows that match no rule wait for approval
  egress agent quarantine trainer                    cut it off, now
  egress agent release trainer
  egress agent rm trainer
"""
_MODES = click.Choice([mode.value for mode in Mode])
_DEFAULTS = click.Choice(["allow", "deny"])


@click.group("agent", epilog=EXAMPLES)
def command() -> None:
    """Attach, list, change, cut off and detach agents. A running gateway applies changes at once."""


@command.command("add", epilog=EXAMPLES)
@click.argument("name")
@click.option("--netns", metavar="NAME", help="A network namespace (ip netns).")
@click.option("--interface", metavar="IF", help="A veth, tap or bridge interface of this host.")
@click.option("--cidr", metavar="CIDR@IF", help="A network behind an interface.")
@click.option(
    "--mode",
    type=_MODES,
    default="enforce",
    show_default=True,
    help="enforce; monitor: record refusals, but let packets pass; ask: unmatched flows wait for approval.",
)
@click.option(
    "--default",
    "default",
    type=_DEFAULTS,
    default="deny",
    show_default=True,
    help="The action for flows that match no rule.",
)
@click.option("--label", "labels", multiple=True, help="A label that rules can match (label:GLOB); may be repeated.")
@budget_option
@api_options
def add(
    *,
    api: ApiClient,
    name: str,
    netns: str | None,
    interface: str | None,
    cidr: str | None,
    budgets: tuple[Budget, ...],
    **fields: Any,
) -> None:
    """Attach agent NAME.

    An agent is a namespace, an interface, or a network of this host. Nothing passes unless a rule or `--default allow`
    allows it.
    """
    given = [(kind, value) for kind, value in (("netns", netns), ("interface", interface), ("cidr", cidr)) if value]
    if len(given) != 1:
        raise click.UsageError("give exactly one of --netns, --interface, --cidr")
    kind, value = given[0]
    place = attach.resolve(kind, value, name)
    own = place.networks if kind == "netns" else ()  # fixed now: root in a namespace may add addresses later
    body = {"name": name, "kind": kind, "value": value, "networks": own, "budgets": list(map(budget_text, budgets))}
    body["host"] = api.host  # this host, even if the API is elsewhere
    api.post("/agents", body | fields)
    networks = ", ".join(place.networks[:4]) + (f" and {more} more" if (more := len(place.networks) - 4) > 0 else "")
    click.echo(f"agent {name}: {kind} {value}, behind {place.interface}, networks {networks}")
    _reload(api.control_socket)


@command.command("list", epilog=EXAMPLES)
@click.option("--host", default="", metavar="NAME", help="Only agents attached on this host.")
@output_option
@api_options
def list_(*, api: ApiClient, host: str, output: str) -> None:
    """List the agents and live `egress run` sandboxes of all hosts."""
    found = list(api.pages("/agents", host=host))
    if output == "json":
        as_json(found)
        return
    for each in found:
        click.echo(_line(each))
    if not found:
        click.echo("no agents; attach one with: egress agent add", err=True)


@command.command("set", epilog=EXAMPLES)
@click.argument("name")
@click.option(
    "--mode",
    type=_MODES,
    help="monitor: record refusals, but let packets pass; ask: unmatched flows wait for approval (egress approvals).",
)
@click.option("--default", "default", type=_DEFAULTS, help="The action for flows that match no rule.")
@click.option("--label", "labels", multiple=True, help="Replaces all labels; may be repeated.")
@click.option("--no-labels", is_flag=True, help="Remove all labels.")
@budget_option
@click.option("--no-budgets", is_flag=True, help="Remove all budgets.")
@api_options
def set_(
    *,
    api: ApiClient,
    name: str,
    mode: str | None,
    default: str | None,
    labels: tuple[str, ...],
    no_labels: bool,
    budgets: tuple[Budget, ...],
    no_budgets: bool,
) -> None:
    """Change agent NAME while it runs. Settings that are not given stay unchanged."""
    body: dict[str, object] = {key: value for key, value in (("mode", mode), ("default", default)) if value}
    if labels or no_labels:
        body["labels"] = list(labels)
    if budgets or no_budgets:
        body["budgets"] = list(map(budget_text, budgets))
    if not body:
        raise click.UsageError("nothing to change: give --mode, --default, --label or --budget")
    click.echo(_line(api.call("PATCH", f"/agents/{segment(name)}", params={}, body=body)))


@command.command("quarantine", epilog=EXAMPLES)
@click.argument("name")
@api_options
def quarantine(*, api: ApiClient, name: str) -> None:
    """Cut agent NAME off. Nothing passes in either direction, in any mode; live connections are cut too."""
    api.post(f"/agents/{segment(name)}/quarantine")
    click.echo(f"agent {name} is in quarantine; `egress agent release {name}` ends it")


@command.command("release", epilog=EXAMPLES)
@click.argument("name")
@api_options
def release(*, api: ApiClient, name: str) -> None:
    """End the quarantine of agent NAME. Its mode and the rules apply again."""
    api.post(f"/agents/{segment(name)}/release")
    click.echo(f"agent {name} is released")


@command.command("rm", epilog=EXAMPLES)
@click.argument("name")
@api_options
def rm(*, api: ApiClient, name: str) -> None:
    """Detach agent NAME. It is unguarded from then on; its records stay in the database."""
    gone = api.get(f"/agents/{segment(name)}")
    api.delete(f"/agents/{segment(name)}")
    click.echo(f"agent {name} ({gone['kind']} {gone['value']}) is detached and unguarded from now on")
    _reload(api.control_socket)


def _line(agent: dict[str, Any]) -> str:
    """Format an agent of the API as one line."""
    labels = f"labels {', '.join(agent['labels'])}" if agent["labels"] else ""
    budgets = f"budgets {', '.join(agent['budgets'])}" if agent["budgets"] else ""
    host = f"on {agent['host']}" if agent["host"] else ""
    more = plain("; ".join(filter(None, (host, "QUARANTINED" if agent["quarantined"] else "", labels, budgets))))
    name, kind, mode = agent["name"], agent["kind"], agent["mode"]
    return f"{name:24} {kind:9} {agent['value']:28} {mode:8} default {agent['default']:6} {more}".rstrip()


def _reload(control: Path) -> None:
    """Make the gateway reload now, so that the change is in force when the command ends. Warns if no gateway runs.

    Raises EgressError if the gateway reports a problem.
    """
    try:
        with Client(control) as client:
            answer = client.call("reload")
    except NotRunningError:
        click.echo("no gateway runs: nothing is guarded until `egress gateway` is started", err=True)
        return
    if answer["problem"]:
        raise EgressError(str(answer["problem"]))
