"""`egress show`: the whole story of one flow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
from sqlalchemy.engine import Engine

from egress.cli.text import endpoint, hexdump, plain, size, when
from egress.config import load_config
from egress.errors import EgressError, InputError
from egress.eve import to_eve
from egress.model import Action, FindingRecord, FlowRecord, Mode, Reason, Rule
from egress.store.database import open_database
from egress.store.policies import policy
from egress.store.reader import findings_of, flow, flow_ids

_PREFIX = re.compile(r"[0-9a-f]{1,16}", re.ASCII)
_LABEL = 11  # columns

_REASONS = {
    Reason.RULE: "a rule of the policy says so",
    Reason.DEFAULT: "no rule speaks of it, so the agent's default holds",
    Reason.FINDING: "a signature objected",
    Reason.DESTINATION: "an earlier finding refused this destination to this agent",
    Reason.APPLICATION: "the rule that opened it asks for another application protocol",
    Reason.NAME: "the name in its bytes (SNI, Host) is not one the rules allow, or is hidden",
    Reason.QUERY: "it asked the DNS for a name that no rule allows",
    Reason.BUDGET: "the agent has used up what its budgets let it",
    Reason.INBOUND: "it was opened from outside, which no rule allows",
    Reason.SPOOFED: "the source address is not the agent's",
    Reason.MALFORMED: "its headers do not parse",
    Reason.TRUNCATED: "bytes that had to be inspected did not reach the gateway",
    Reason.SEQUENCE: "the segment could not be put in order: too far ahead, or of no answered connection",
    Reason.MIDSTREAM: "the beginning of the connection was never seen, and no recent start of the gateway explains it",
    Reason.MEMCAP: "there was no room to track another undecided flow",
    Reason.RECORDER: "records could not be written, so nothing new might pass",
    Reason.ERROR: "the gateway failed while judging it; please report this",
}


EXAMPLES = """\b
Examples:
  egress show 53925f4d                     by the first digits, as `egress query` shows them
  egress show 53925f4d4b1f0c6e -o json     for programs
"""


@click.command("show", epilog=EXAMPLES)
@click.argument("flow_id", metavar="FLOW")
@click.option("-o", "--output", type=click.Choice(["human", "json"]), default="human", show_default=True)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file, for its database.")
def command(flow_id: str, output: str, config: Path | None) -> None:
    """Show everything recorded of one flow. FLOW is its id, or the first digits of it, as `egress query` shows them."""
    engine = open_database(load_config(config).database_url, create=False)
    try:
        found = _find(engine, flow_id)
        findings = findings_of(engine, found.flow_id)
        if output == "json":
            click.echo(json.dumps({**to_eve(found), "findings": [to_eve(finding) for finding in findings]}))
            return
        for line in _story(found, findings, _rule(engine, found)):
            click.echo(line)
    finally:
        engine.dispose()


def _find(engine: Engine, wanted: str) -> FlowRecord:
    digits = wanted.strip().lower()
    if not _PREFIX.fullmatch(digits):
        raise InputError(f"{wanted!r} is no flow id; it has up to 16 digits 0-9 a-f, as `egress query` shows them")
    ids = flow_ids(engine, digits)
    if len(ids) > 1 and digits not in ids:
        raise EgressError(f"{len(ids)} or more flows begin with {digits}; give more digits: {', '.join(ids[:5])}")
    found = flow(engine, digits if digits in ids else ids[0]) if ids else None
    if found is None:
        raise EgressError(f"no flow begins with {digits}; `egress query` shows which there are")
    return found


def _rule(engine: Engine, found: FlowRecord) -> Rule | None:
    """The rule the verdict names, as it stood in the policy the verdict was made under."""
    version = policy(engine, found.policy_version) if found.rule_id else None
    return next((rule for rule in version.rules if rule.id == found.rule_id), None) if version else None


def _story(found: FlowRecord, findings: tuple[FindingRecord, ...], rule: Rule | None) -> Iterator[str]:
    yield _labelled("flow", f"{found.flow_id}  ({found.community_id})")
    yield _labelled("agent", found.agent)
    source, target = endpoint(found.src, found.sport), endpoint(found.dst, found.dport)
    opener = "opened by the agent" if found.direction == "out" else "opened towards the agent"
    yield _labelled("path", f"{found.proto}  {source} -> {target}  ({opener})")
    if found.app_proto or found.server_name:
        yield _labelled("protocol", f"{found.app_proto or 'unknown'}  {found.server_name}".rstrip())
    yield _labelled("time", _span(found))
    yield _labelled("verdict", _verdict(found.action, found.mode, _REASONS[found.reason]))
    if found.rule_id or found.policy_version:
        yield _labelled("rule", _rule_text(found, rule))
    yield _labelled("out", f"{found.packets_out} packets, {size(found.bytes_out)}")
    yield _labelled("in", f"{found.packets_in} packets, {size(found.bytes_in)}")
    if found.unseen_bytes:
        yield _labelled("unseen", f"{size(found.unseen_bytes)} of the stream were never inspected")
    if not findings:
        yield _labelled("findings", "none")
    for number, finding in enumerate(findings, 1):
        yield ""
        yield from _finding(number, finding)


def _finding(number: int, finding: FindingRecord) -> Iterator[str]:
    yield _labelled(f"finding {number}", f"{finding.signature}  {finding.severity}  {finding.technique}".rstrip())
    yield _labelled("", finding.summary)
    reach = "this flow" if finding.effect == "flow" else "this flow and later ones to the same destination"
    yield _labelled("", f"{when(finding.time)} UTC: {_verdict(finding.action, finding.mode, reach)}")
    for line in hexdump(finding.evidence):
        yield _labelled("", line)


def _labelled(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{plain(text)}".rstrip()


def _verdict(action: Action, mode: Mode, why: str) -> str:
    not_done = "" if mode is Mode.ENFORCE else ", not carried out (monitor mode)"
    return f"{action}{not_done}: {why}"


def _span(found: FlowRecord) -> str:
    if found.end is None:
        return f"{when(found.start)} UTC, {found.state} when last recorded at {when(found.updated)}"
    return f"{when(found.start)} UTC to {when(found.end)} ({found.end - found.start:.3f} s), {found.state}"


def _rule_text(found: FlowRecord, rule: Rule | None) -> str:
    if not found.rule_id:
        return f"none, under policy version {found.policy_version}"
    text = f"{found.rule_id} of policy version {found.policy_version}"
    if rule is None:
        return text
    parts = ["allow" if rule.action is Action.ACCEPT else "deny", rule.destination, rule.protocol]
    parts.append(",".join(str(first) if first == last else f"{first}-{last}" for first, last in rule.ports))
    parts += [rule.app, "also unnamed" if rule.unnamed else "", f"for {rule.agent}"]
    parts += [f"until {when(rule.expires_at)} UTC" if rule.expires_at is not None else "", "once" if rule.once else ""]
    parts += [f"by {rule.author}" if rule.author else "", f"# {rule.comment}" if rule.comment else ""]
    return f"{text}: {' '.join(part for part in parts if part)}"
