"""`egress episodes`: lists the episodes that agent frameworks reported."""

from __future__ import annotations

from pathlib import Path

import click

from egress.cli.input.params import Time
from egress.cli.input.queries import config_option, records
from egress.cli.output.tables import as_json, output_option, table
from egress.cli.output.text import when
from egress.store.query.episodes import listed
from egress.store.query.storyjson import episode_mapping

EXAMPLES = """\b
Examples:
  egress episodes                          the newest episodes of all agents
  egress episodes --agent 'rome-*' --since 1d
  egress show episode run-17               one episode: each tool call and the flows during it
  egress query --count-by episode,tool     flows and bytes of each
"""
MOST = 100


@click.command("episodes", epilog=EXAMPLES)
@click.option("--agent", default="", metavar="GLOB", help="Only matching agents.")
@click.option(
    "--since", type=Time(), metavar="TIME", help="Only episodes with a step active then or later: 2h, 2026-11-23T15:00."
)
@click.option("--limit", type=click.IntRange(1), default=MOST, show_default=True, metavar="N", help="The newest N.")
@output_option
@config_option
def command(*, agent: str, since: float | None, limit: int, output: str, config: Path | None) -> None:
    """List the episodes that agent frameworks reported.

    An episode is a series of tool calls. Newest first; times are UTC.
    """
    with records(config) as engine, engine.connect() as connection:
        found = listed(connection, agent=agent, since=since, limit=limit)
    if output == "json":
        as_json([episode_mapping(each) for each in found])
    elif found:
        rows = [
            (
                each.episode,
                each.agent,
                when(each.start),
                "under way" if each.end is None else when(each.end),
                each.steps,
                each.tools,
            )
            for each in found
        ]
        table(("episode", "agent", "first step (UTC)", "last ended", "steps", "tools"), rows)
    else:
        click.echo("No episode matches. Frameworks report episodes as docs/operations.md describes.", err=True)
