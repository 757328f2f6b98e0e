"""Options of `egress allow` and `egress deny`, and the request that adds the rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from egress.cli.input.client import ApiClient
from egress.cli.output.tables import as_json
from egress.cli.output.text import plain

_F = TypeVar("_F", bound=Callable[..., Any])


def rule_options(command: _F) -> _F:
    """Add the argument DEST, and the options that allow and deny rules share, to a command."""
    for decorate in reversed(
        (
            click.argument("destination", metavar="DEST"),
            click.option("--agent", default="", metavar="GLOB", help="Only matching agents: a glob, or label:GLOB."),
            click.option("--port", "ports", multiple=True, metavar="PORT", help="443 or 8000-8100; may be repeated."),
            click.option("--protocol", default="", help="tcp, udp, icmp, … or a number."),
            click.option("--app", default="", help="Only this application protocol: ssh, tls, http, dns, …; any."),
            click.option(
                "--for",
                "expires",
                default="",
                metavar="TIME",
                help="Lifetime: 5m, 1h, 1d, 1w, until an instant, or forever.",
            ),
            click.option("--comment", default="", help="A comment, shown with the rule."),
            click.option("--id", "rule_id", default="", help="The rule's id [random]."),
            click.option("--dry-run", is_flag=True, help="Check only; change nothing."),
        )
    ):
        command = decorate(command)
    return command


def make(api: ApiClient, action: str, fields: dict[str, Any], output: str, *, dry_run: bool) -> None:
    """Add a rule through the API and print it. `dry_run`: only check it.

    `action` is allow or deny, `fields` are the values of the options, `output` is human or json.
    """
    ports, protocol = list(map(_number, fields.pop("ports"))), _number(fields.pop("protocol"))
    body = {"action": action, **fields, "ports": ports, "protocol": protocol}
    given = {key: value for key, value in body.items() if value not in ("", []) and value is not False}
    made = api.post("/allowlist", given, dry_run=dry_run)
    if output == "json":
        as_json(made)
        return
    click.echo(f"{'would make' if dry_run else 'made'} {sentence(made)}")


def _number(text: str) -> int | str:
    """Convert up to six decimal digits to an integer; return any other text unchanged."""
    return int(text) if re.fullmatch("[0-9]{1,6}", text, re.ASCII) else text


def sentence(rule: dict[str, Any]) -> str:
    """Format a rule: `rule 3f2a…: allow example.org tcp 443 (tls) for train-* until 2030-01-31T12:00:00Z`."""
    ports = ",".join(map(str, rule.get("ports", [])))
    words = [f"rule {rule['id']}:", rule["action"], rule["destination"], str(rule.get("protocol", "")), ports]
    words += [f"({rule['app']})" if rule.get("app") else "", f"for {rule['agent']}" if rule["agent"] != "*" else ""]
    expires = rule.get("expires", "forever")
    words.append("once" if expires == "once" else f"until {expires}" if expires != "forever" else "")
    words.append(f"exempt from {', '.join(rule['exempt'])}" if rule.get("exempt") else "")
    return plain(" ".join(word for word in words if word))
