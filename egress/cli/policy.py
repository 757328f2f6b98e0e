"""`egress policy list|show|diff|replay`: shows and compares policy versions, and re-judges flows by one."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from egress.cli.input.client import LONG_SECONDS, ApiClient, api_options
from egress.cli.input.params import Listing, case_option
from egress.cli.input.ruleoptions import sentence
from egress.cli.output.tables import as_json, output_option, table
from egress.cli.output.text import plain
from egress.cli.simulate import print_simulation, simulation_options
from egress.policy.file import document_yaml

EXAMPLES = """\b
Examples:
  egress policy list                                the newest versions, and who made them
  egress policy show 17 > then.yaml                 its rules, to read or to import
  egress policy diff 17 20
  egress policy replay --version 17 --since 7d      re-judge the stored flows by its rules
  egress policy replay --version 1 --case incident
"""
COLUMNS = ("version", "made (UTC)", "by", "rules added", "removed")


@click.group("policy", cls=Listing, epilog=EXAMPLES)
def command() -> None:
    """List, show, compare and replay policy versions.

    A version has all rules in force, of every source. Every edit of a rule makes a version.
    """


@command.command("list", epilog=EXAMPLES)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="The newest N.")
@output_option
@case_option
@api_options
def list_(*, api: ApiClient, limit: int, output: str) -> None:
    """List versions, newest first. An edited rule counts as added and as removed; `egress audit` has each edit."""
    found = list(api.pages("/policy/versions", limit))
    if output == "json":
        as_json(found)
    elif found:
        columns = ("version", "created", "actor", "added", "removed")
        table(COLUMNS, [[each[column] for column in columns] for each in found])
    else:
        click.echo("there is no version yet: no rule was ever added", err=True)


@command.command("show", epilog=EXAMPLES)
@click.argument("version", type=click.IntRange(0), required=False)
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="Output format."
)
@case_option
@api_options
def show_(*, api: ApiClient, version: int | None, output: str) -> None:
    """Print the rules of VERSION as a document.

    VERSION defaults to the current version. `egress allowlist import` reads the document.
    """
    found = api.get("/policy/current" if version is None else f"/policy/versions/{version}")
    if output == "json":
        as_json(found)
        return
    click.echo(f"# version {found['version']}, {len(found['rules'])} rules")
    rules = [{key: value for key, value in rule.items() if key != "created"} for rule in found["rules"]]
    click.echo(document_yaml({"rules": rules}), nl=False)


@command.command("diff", epilog=EXAMPLES)
@click.argument("a", type=click.IntRange(0))
@click.argument("b", type=click.IntRange(0), required=False)
@output_option
@case_option
@api_options
def diff(*, api: ApiClient, a: int, b: int | None, output: str) -> None:
    """Show the changes from version A to version B.

    B defaults to the current version. Version 0 has no rules.
    """
    found = api.get("/policy/diff", from_=str(a), to=None if b is None else str(b))
    if output == "json":
        as_json(found)
        return
    lines = _lines(found)
    for line in lines or [f"versions {found['from']} and {found['to']} have the same rules"]:
        click.echo(line)


@command.command("replay", epilog=EXAMPLES)
@click.option("--version", required=True, type=click.IntRange(0), metavar="N", help="The version; 0 has no rules.")
@output_option
@simulation_options
@api_options
def replay(*, api: ApiClient, version: int, params: dict[str, object], output: str) -> None:
    """Re-judge the stored flows by the rules of a version.

    The verdicts that would differ are shown. Agents are taken as they are now; expiry is ignored. Records keep only the
    last server name in the bytes, and at most eight names resolved to the address. Exit code 3: a flow that passed
    would be refused.
    """
    found = api.call("POST", f"/policy/versions/{version}/replay", params=params, seconds=LONG_SECONDS)
    sys.exit(print_simulation(found, params["default"], output))


def _lines(found: dict[str, Any]) -> list[str]:
    """Format a diff of the API, one line per rule: - removed, ~ changed, + added."""
    lines = [f"- {sentence(rule)}" for rule in found["removed"]]
    for pair in found["changed"]:
        before, after = pair["before"], pair["after"]
        fields = [key for key in {**before, **after} if key != "added" and before.get(key) != after.get(key)]
        changes = ", ".join(f"{key} {_value(before.get(key))} -> {_value(after.get(key))}" for key in fields)
        lines.append(plain(f"~ rule {after['id']}: {changes}"))
    return [*lines, *(f"+ {sentence(rule)}" for rule in found["added"])]


def _value(value: object) -> str:
    return "nothing" if value in (None, "") else json.dumps(value, ensure_ascii=False)
