"""`egress learn`: proposes rules that allow an agent's recorded flows."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import click

from egress.cli.input.params import Time, case_words, chosen_case
from egress.cli.input.queries import config_option, records
from egress.cli.output.tables import output_option
from egress.cli.output.text import plain, when
from egress.config import load_config
from egress.errors import EgressError
from egress.model import Agent, Policy
from egress.policy.file import dump_yaml, to_document
from egress.store.policy import agents, ruleset
from egress.whatif.learn import Proposal, learn

EXAMPLES = """\b
Examples:
  egress learn trainer --since 1h                   rules for its flows of the last hour
  egress learn trainer --since 1d -w trainer.yaml   review it, then: egress allowlist import trainer.yaml
  egress learn trainer --since 1d --all             as if no rule allowed anything yet
  egress learn trainer --since 1h --refused         also for what no rule allowed
  egress learn 10.77.0.2 --case incident            rules for its flows in a capture
"""
LISTED = 50  # entries of the list of left-out flows in the file's header


@click.command("learn", epilog=EXAMPLES)
@click.argument("agent")
@click.option(
    "--since", type=Time(), metavar="TIME", help="Flows active then or later: 1h, 2026-11-23; required without --case."
)
@click.option("--until", type=Time(), metavar="TIME", help="Flows that began by then.")
@click.option("--all", "everything", is_flag=True, help="Also flows that the rules in force already allow.")
@click.option("--refused", is_flag=True, help="Also flows and queries that were refused because no rule matched them.")
@click.option(
    "-w", "--write", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write to this file instead."
)
@output_option
@config_option
def command(
    agent: str,
    since: float | None,
    until: float | None,
    everything: bool,
    refused: bool,
    file: Path | None,
    output: str,
    config: Path | None,
) -> None:
    """Propose rules for AGENT's recorded flows.

    The fewest rules that allow them are written as YAML, to review and import. They prefer names to addresses. Flows
    with findings are left out, and so is all refused traffic; --refused includes flows and DNS queries that were
    refused because no rule matched. The policy is not changed. To learn the needs of an agent, let it work in mode
    monitor for a while: there everything passes.
    """
    if since is None and not chosen_case():
        raise click.UsageError("--since is required: how far back to learn from")
    settings = load_config(config)
    with records(config) as database, database.connect() as connection:
        stored = agents.agent(connection, agent)
        host = None if chosen_case() else stored.host if stored is not None else settings.host_name
        proposal = learn(
            connection,
            stored.agent if stored is not None else Agent(agent),
            ruleset.snapshot(connection, host=host) or Policy(),
            since,
            until,
            now=time.time(),
            everything=everything,
            refused=refused,
            gate_queries=settings.gate_queries,
        )
    if not proposal.recorded:
        raise EgressError(
            f"no flow of agent {ascii(agent)[1:-1]} is recorded for that time: "
            f"widen --since, or let it work behind the gateway first (`egress query{case_words()}` lists the flows)"
        )
    text = _json(proposal) if output == "json" else _yaml(proposal, since, until)
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EgressError(f"cannot write {file}: {error.strerror}") from None
    click.echo(f"{file}: {len(proposal.rules)} rules; review them, then: egress allowlist import {file}", err=True)


def _yaml(proposal: Proposal, since: float | None, until: float | None) -> str:
    """Format the rules as a policy document. Its header has the agent, the period, and the flows left out."""
    begin, end = (None if moment is None else f"{when(moment)[:19]} UTC" for moment in (since, until))
    span = f"{begin or 'the first'} to {end or ('the last' if since is None else 'now')}"
    left = proposal.recorded - proposal.covered - proposal.already
    head = [
        f"Proposed by egress learn for agent {proposal.agent}, from its flows from {span}.",
        f"Flows: {proposal.covered} need these rules, {proposal.already} are allowed already, {left} are left out.",
        "Review each rule before you import it.",
    ]
    if proposal.left_out:
        head.append("Left out (flows):")
        head += [f"  {each.what}: {each.why} ({each.flows})" for each in proposal.left_out[:LISTED]]
        if len(proposal.left_out) > LISTED:
            head.append(f"  and {len(proposal.left_out) - LISTED} more (-o json has them all)")
    return "".join(f"# {plain(line)}\n" for line in head) + dump_yaml(proposal.rules)


def _json(proposal: Proposal) -> str:
    document = {
        "agent": proposal.agent,
        **to_document(proposal.rules),
        "flows": {"recorded": proposal.recorded, "covered": proposal.covered, "already": proposal.already},
        "left_out": [dataclasses.asdict(each) for each in proposal.left_out],
    }
    return json.dumps(document, indent=2) + "\n"
