"""`egress simulate`: re-judges stored flows by other rules. `egress policy replay` shares its options and output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from egress.cli.input.client import LONG_SECONDS, ApiClient, api_options
from egress.cli.input.params import case_option, chosen_case, read_document
from egress.cli.output.tables import as_json, output_option, table

EXAMPLES = """\b
Examples:
  egress simulate new-rules.yaml --since 24h
  egress simulate new-rules.yaml --since 7d -o json
  egress simulate new-rules.yaml --case incident     over the flows of a case
"""
COLUMNS = ("would be", "agent", "destination", "asked for", "why")
ALWAYS = "1970-01-01T00:00:00Z"

_F = TypeVar("_F", bound=Callable[..., Any])


def simulation_options(command: _F) -> _F:
    """Add --since, --until, --agent, --default, --limit and --case to a command.

    The command gets them as one argument `params`: the query parameters for the API.
    """

    @click.option("--since", metavar="TIME", help="Flows since then: 2h, 7d, an instant [24h; a case: all].")
    @click.option("--until", default="", metavar="TIME", help="Flows that began by then.")
    @click.option("--agent", default="", metavar="GLOB", help="Only matching agents.")
    @click.option(
        "--default",
        type=click.Choice(["allow", "deny"]),
        help="The default assumed for agents that are no longer attached [deny; a case: allow].",
    )
    @click.option(
        "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Lines, most flows first."
    )
    @case_option
    @functools.wraps(command)
    def with_params(
        *args: object, since: str | None, until: str, agent: str, default: str | None, limit: int, **kwargs: object
    ) -> object:
        in_case = chosen_case() is not None
        params = {
            "since": since or (ALWAYS if in_case else "24h"),
            "until": until,
            "agent": agent,
            "default": default or ("allow" if in_case else "deny"),
            "limit": limit,
        }
        return command(*args, params=params, **kwargs)

    return with_params  # type: ignore[return-value]


@click.command("simulate", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option
@simulation_options
@api_options
def command(*, api: ApiClient, file: Path, params: dict[str, object], output: str) -> None:
    """Re-judge the stored flows by the rules in FILE.

    They take the place of all rules in force; the verdicts that would change are shown. Exit code 3: a flow that passed
    would be refused.
    """
    data, kind = read_document(file)
    found = api.call("POST", "/simulate", params=params, content=data, kind=kind, seconds=LONG_SECONDS)
    sys.exit(print_simulation(found, params["default"], output))


def print_simulation(found: dict[str, Any], default: object, output: str) -> int:
    """Print the API's answer; return the exit code: 3 if a flow that passed would be refused, else 0.

    `default` is the default (allow or deny) by which flows of agents that are no longer attached were judged.
    """
    code = 3 if found["newly_refused"] else 0
    if output == "json":
        as_json(found)
        return code
    if found["groups"]:
        table(COLUMNS, map(_row, found["groups"]))
    if found["more"]:
        click.echo(f"and {found['more']} more flows would change; -o json has the counts")
    click.echo(
        f"{found['flows']} flows: {found['newly_refused']} that passed would be refused, "
        f"{found['newly_allowed']} that were refused would pass, {found['same']} unchanged"
    )
    if found.get("gone"):
        agents = "1 agent is" if found["gone"] == 1 else f"{found['gone']} agents are"
        click.echo(f"{agents} not attached: judged with default {default} and without labels (--default changes this)")
    return code


def _row(group: dict[str, Any]) -> list[object]:
    refused, allowed = group["newly_refused"], group["newly_allowed"]
    change = ", ".join(f"{count} {word}" for count, word in ((refused, "refused"), (allowed, "allowed")) if count)
    why = f"{group['reason']} {group['rule_id']}".rstrip()
    asked = "query" if group["query"] else f"{group['proto']} {group['port'] or ''}".rstrip()
    return [change, group["agent"], group["destination"], asked, why]
