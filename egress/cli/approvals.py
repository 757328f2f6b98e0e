"""`egress approvals list|approve|deny`: lists and decides the flows and DNS queries held for approval (mode `ask`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from egress.cli.input.client import ApiClient, api_options, segment
from egress.cli.input.params import Listing
from egress.cli.output.tables import as_json, output_option, table
from egress.errors import InputError
from egress.model import HoldState

EXAMPLES = """\b
Examples:
  egress approvals                              the pending holds
  egress approvals list --state denied
  egress approvals approve 9f1c2b --for 1h      by the first digits of the id
  egress approvals deny 9f1c2b
"""
COLUMNS = ("id", "agent", "since", "until", "allows", "process", "tool call", "state", "decided_by")


@click.group("approvals", cls=Listing, epilog=EXAMPLES)
def command() -> None:
    """List, approve and deny the holds of agents in mode `ask`.

    A hold is a flow or DNS query that waits for a person's approval. A decision is final. A hold that times out is
    refused.
    """


@command.command("list", epilog=EXAMPLES)
@click.option(
    "--state",
    type=click.Choice([state.value for state in HoldState]),
    default=HoldState.PENDING.value,
    show_default=True,
    help="Holds in this state.",
)
@click.option("--agent", default="", metavar="GLOB", help="Only matching agents.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The newest N.")
@output_option
@api_options
def list_(*, api: ApiClient, state: str, agent: str, limit: int, output: str) -> None:
    """List holds, newest first."""
    found = list(api.pages("/approvals", limit, state=state, agent=agent))
    if output == "json":
        as_json(found)
    elif found:
        table(COLUMNS, [[*_columns(each)] for each in found])
    else:
        click.echo(f"there are no {state} holds", err=True)


@command.command("approve", epilog=EXAMPLES)
@click.argument("hold", metavar="ID")
@click.option("--for", "expires", default="once", show_default=True, metavar="TIME", help="once, 5m, 1h, 1d, forever.")
@output_option
@api_options
def approve(*, api: ApiClient, hold: str, expires: str, output: str) -> None:
    """Approve a hold: once, for a time, or forever.

    Approval makes a rule for this agent and this destination; for a flow with its protocol and port, for a DNS query
    with any.
    """
    done = api.post(f"/approvals/{segment(_complete_id(api, hold))}/approve", {"for": expires})
    _print_decision(done, output)


@command.command("deny", epilog=EXAMPLES)
@click.argument("hold", metavar="ID")
@output_option
@api_options
def deny(*, api: ApiClient, hold: str, output: str) -> None:
    """Deny a hold: the waiting flow or DNS query is refused."""
    _print_decision(api.post(f"/approvals/{segment(_complete_id(api, hold))}/deny"), output)


def _columns(hold: dict[str, Any]) -> Iterator[object]:
    for column in COLUMNS:
        if column == "allows":
            yield allows(hold["rule"]) if hold["rule"] else f"{hold['destination']}: no rule can"
        elif column == "process":
            process = hold["process"]
            yield "-" if process is None else process["cmdline"] or process["exe"] or f"({process['status']})"
        elif column == "tool call":
            yield "; ".join(f"{call['tool']} {call['summary']}".strip() for call in hold["steps"]) or "-"
        else:
            yield hold.get(column)


def allows(rule: dict[str, Any]) -> str:
    """Format the traffic that the rule of an approval would allow: destination, protocol and port."""
    if "protocol" not in rule:
        return f"{rule['destination']}, any protocol and port"
    ports = ",".join(str(port) for port in rule.get("ports", ()))
    return f"{rule['destination']} {rule['protocol']}{f' {ports}' if ports else ''}"


def _complete_id(api: ApiClient, digits: str) -> str:
    """Return the id of the only pending hold that begins with `digits`; if none does, `digits`, which the API judges.

    Raises InputError if `digits` are not hex digits, or several holds begin with them.
    """
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise InputError(f"{ascii(digits)[:60]} is not a valid id: give its first hex digits, 0-9 a-f")
    found = [each["id"] for each in api.pages("/approvals", state="pending") if each["id"].startswith(digits)]
    if len(found) > 1 and digits not in found:
        raise InputError(f"{len(found)} holds begin with {digits}: give more digits")
    return found[0] if len(found) == 1 else digits


def _print_decision(done: dict[str, object], output: str) -> None:
    if output == "json":
        as_json(done)
        return
    rule = f" by rule {done['rule_id']}" if done.get("rule_id") else ""
    click.echo(f"{done['state']}: {done['agent']} to {done['destination']}{rule}")
