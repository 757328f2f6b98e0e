"""`egress simulate`: what would another policy have done to the flows of the last hours?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from egress.cli.client import Api, api_options
from egress.cli.params import read_document
from egress.cli.tables import as_json, output_option, table

EXAMPLES = """\b
Examples:
  egress simulate new-rules.yaml --since 24h
  egress simulate new-rules.yaml --since 7d -o json
"""


COLUMNS = ("would be", "agent", "destination", "asked for", "why")


@click.command("simulate", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--since", default="24h", show_default=True, metavar="TIME", help="Flows since then: 2h, 7d, an instant.")
@click.option("--until", default="", metavar="TIME")
@output_option
@api_options
def command(*, api: Api, file: Path, since: str, until: str, output: str) -> None:
    """Judge the stored flows by the rules in FILE, in place of all rules in force, and show what would change.

    Exit code 3: something that passed would be refused.
    """
    data, kind = read_document(file)
    params: dict[str, object] = {"since": since, "until": until}
    found = api.call("POST", "/simulate", params=params, content=data, kind=kind)
    if output == "json":
        as_json(found)
    else:
        if found["groups"]:
            table(COLUMNS, map(_row, found["groups"]))
        if found["more"]:
            click.echo(f"and {found['more']} flows more that would change; -o json has the counts")
        click.echo(
            f"{found['flows']} flows: {found['newly_refused']} that passed would be refused, "
            f"{found['newly_allowed']} that were refused would pass, {found['same']} as they were"
        )
    sys.exit(3 if found["newly_refused"] else 0)


def _row(group: dict[str, Any]) -> list[object]:
    refused, allowed = group["newly_refused"], group["newly_allowed"]
    change = ", ".join(f"{count} {word}" for count, word in ((refused, "refused"), (allowed, "allowed")) if count)
    why = f"{group['reason']} {group['rule_id']}".rstrip()
    asked = "query" if group["query"] else f"{group['proto']} {group['port'] or ''}".rstrip()
    return [change, group["agent"], group["destination"], asked, why]
