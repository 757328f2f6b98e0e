"""`egress show flow|finding|agent|episode`: shows everything recorded about one flow, finding, agent or episode."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from egress.cli.input.queries import chosen_finding, chosen_flow, config_option, records
from egress.cli.output.story import doing_line, finding_lines, flow_lines, kept_line
from egress.cli.output.story_agent import agent_document, agent_lines
from egress.cli.output.story_episode import episode_lines
from egress.cli.output.tables import output_option
from egress.cli.output.text import labelled, plain
from egress.errors import InputError
from egress.policy.ruletext import to_mapping
from egress.records.eve import process_part, to_eve
from egress.store.query.episodes import agents_of, episode_story
from egress.store.query.story import FindingStory, FlowStory, agent_story, finding_story, flow_story
from egress.store.query.storyjson import context_mapping, flow_mapping, story_mapping

EXAMPLES = """\b
Examples:
  egress show 53925f4d                     a flow, by the first digits of its id
  egress show flow 53925f4d4b1f0c6e -o json  for programs
  egress show finding 7f3a                 a finding: its bytes, and its kept packets
  egress show agent rome-7                 an agent: its attachment, destinations and findings
  egress show episode run-17               each tool call with the flows during it, and between them
"""


class _FlowByDefault(click.Group):
    """Reads `egress show ID` as `egress show flow ID`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx)):
            args = ["flow", *args]
        return super().parse_args(ctx, args)


@click.group("show", cls=_FlowByDefault, epilog=EXAMPLES)
def command() -> None:
    """Show everything about a flow, finding, agent or episode. The first digits of an id are enough."""


@command.command("flow", epilog=EXAMPLES)
@click.argument("flow_id", metavar="FLOW")
@output_option
@config_option
def flow(*, flow_id: str, output: str, config: Path | None) -> None:
    """Show a flow: its names, process, verdict, rule and findings.

    Kept packets, and the agent's other flows of the minute before, are shown too.
    """
    with records(config) as engine:
        story = flow_story(engine, chosen_flow(engine, flow_id))
    if output == "json":
        click.echo(json.dumps(_flow_document(story)))
        return
    for line in flow_lines(story):
        click.echo(line)


@command.command("finding", epilog=EXAMPLES)
@click.argument("finding_id", metavar="FINDING")
@output_option
@config_option
def finding(*, finding_id: str, output: str, config: Path | None) -> None:
    """Show a finding: its bytes, its kept packets, and its flow."""
    with records(config) as engine:
        story = finding_story(engine, chosen_finding(engine, finding_id))
        of_flow = flow_story(engine, story.finding.flow_id) if story.flow is not None else None
    if output == "json":
        process = None if of_flow is None else process_part(of_flow.process)
        click.echo(json.dumps({**_finding_document(story), "process": process}))
        return
    click.echo(labelled("finding", f"{story.finding.finding_id}  (agent {story.finding.agent})"))
    for line in finding_lines("", story.finding):
        click.echo(line)
    if story.context:
        click.echo(doing_line(story.context, story.finding.time))
    click.echo(kept_line(story.finding.finding_id, story.kept))
    click.echo()
    if of_flow is None:
        click.echo(labelled("flow", f"{plain(story.finding.flow_id)}, which is not recorded (yet)"))
        return
    for line in flow_lines(of_flow, but=story.finding.finding_id):
        click.echo(line)


@command.command("agent", epilog=EXAMPLES)
@click.argument("name", metavar="NAME")
@output_option
@config_option
def agent(*, name: str, output: str, config: Path | None) -> None:
    """Show an agent: its attachment, settings and activity.

    The activity is counts, destinations, names, processes, findings and the newest flows.
    """
    with records(config) as engine:
        story = agent_story(engine, name)
    if output == "json":
        click.echo(json.dumps(agent_document(story)))
        return
    for line in agent_lines(story):
        click.echo(line)


@command.command("episode", epilog=EXAMPLES)
@click.argument("episode", metavar="EPISODE")
@click.option("--agent", default="", metavar="NAME", help="The agent, if several have an episode of this id.")
@output_option
@config_option
def episode(*, episode: str, agent: str, output: str, config: Path | None) -> None:
    """Show an episode, tool call by tool call.

    Each call is shown with the flows that began during it; flows that began while no tool was running are shown too.
    Tool calls are reported by the agent's framework (docs/operations.md), and matched with flows by time.
    """
    with records(config) as engine, engine.connect() as connection:
        whose = agents_of(connection, episode)
        if len(whose) > 1 and not agent:
            raise InputError(
                f"several agents have an episode {episode[:60]!a}; choose one with --agent: {', '.join(whose[:20])}"
            )
        story = episode_story(connection, agent or next(iter(whose), ""), episode)
    if output == "json":
        click.echo(json.dumps(story_mapping(story)))
        return
    for line in episode_lines(story):
        click.echo(line)


def _flow_document(story: FlowStory) -> dict[str, object]:
    return {
        **to_eve(story.flow),
        **context_mapping(story.flow.agent, story.context),
        "findings": [to_eve(each) for each in story.findings],
        "process": process_part(story.process),
        "rule": None if story.rule is None else to_mapping(story.rule),
        "packets": {finding_id: dataclasses.asdict(kept) for finding_id, kept in story.kept.items()},
        "before": list(map(flow_mapping, story.before)),
        "more_before": story.more_before,
        "captures": list(story.files),
    }


def _finding_document(story: FindingStory) -> dict[str, object]:
    return {
        **to_eve(story.finding),
        **context_mapping(story.finding.agent, story.context),
        "flow": None if story.flow is None else to_eve(story.flow),
        "packets": None if story.kept is None else dataclasses.asdict(story.kept),
    }
