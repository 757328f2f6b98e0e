"""Formats everything recorded about a flow or a finding as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from egress.cli.input.params import case_words
from egress.cli.output.oneline import brief
from egress.cli.output.processes import process_lines, program
from egress.cli.output.text import endpoint, hexdump, labelled, size, when
from egress.model import Action, Effect, Mode, Reason, Rule, Step
from egress.records.shape import FindingRecord, FlowRecord
from egress.store.query.story import BEFORE, FlowStory, KeptPackets
from egress.store.recording.steps import StepContext

REASONS = {
    Reason.RULE: "a rule of the policy decided",
    Reason.DEFAULT: "no rule matches, so the agent's default applies",
    Reason.FINDING: "a signature matched",
    Reason.DESTINATION: "an earlier finding refused this destination to this agent",
    Reason.APPLICATION: "the rule that admitted it requires another application protocol",
    Reason.NAME: "the name in its bytes (SNI, Host) is not one the rules allow, or is hidden",
    Reason.PRIVATE: "the rule allows its name, but not at an address that is not global; if that address is right, set"
    " private: true in the rule",
    Reason.METADATA: "clouds serve metadata at its address; only an allow rule for exactly that address admits it",
    Reason.QUERY: "it is a DNS query for a name that no rule allows",
    Reason.BUDGET: "a budget of the agent is used up",
    Reason.APPROVAL: "an approval was requested (mode ask): it is pending, was denied, or timed out",
    Reason.QUARANTINE: "the agent is in quarantine",
    Reason.INBOUND: "it was opened from outside, which no rule allows",
    Reason.SPOOFED: "the source address is not the agent's",
    Reason.MALFORMED: "its headers do not parse",
    Reason.TRUNCATED: "bytes that had to be inspected did not reach the inspection",
    Reason.SEQUENCE: "the segment could not be put in order: too far ahead, or of no answered connection",
    Reason.MIDSTREAM: "the beginning of the connection was never seen, and no recent start of the gateway explains it",
    Reason.MEMCAP: "there was no room to track another undecided flow",
    Reason.RECORDER: "records could not be written, so new flows were refused",
    Reason.ERROR: "the gateway failed while judging it; please report this",
}

REACH = {
    Effect.FLOW: "this flow",
    Effect.DESTINATION: "this flow and later ones to the same destination",
    Effect.NONE: "a suspicion, or found in stored history (egress hunt); nothing was refused for it",
}


def flow_lines(story: FlowStory, but: str = "") -> Iterator[str]:
    """Format everything about a flow, except the finding whose id is `but`."""
    found = story.flow
    yield labelled("flow", f"{found.flow_id}  ({found.community_id})")
    yield labelled("agent", found.agent)
    source, target = endpoint(found.src, found.sport), endpoint(found.dst, found.dport)
    opener = "opened by the agent" if found.direction == "out" else "opened towards the agent"
    yield labelled("path", f"{found.proto}  {source} -> {target}  ({opener})")
    if found.app_proto or found.server_name:
        yield labelled("protocol", f"{found.app_proto or 'unknown'}  {found.server_name}".rstrip())
    if found.app_expected:
        yield labelled("expected", f"{found.app_expected.replace(',', ' or ')}, which its bytes are not")
    if found.names:
        yield labelled("names", f"{', '.join(found.names)}  (resolved by the agent to that address)")
    yield labelled("time", _span(found))
    yield from process_lines(story.process)
    yield labelled("verdict", _verdict(found.action, found.mode, REASONS[found.reason]))
    if found.rule_id or found.policy_version:
        yield labelled("rule", _rule_text(found, story.rule))
    if story.context:
        yield doing_line(story.context, found.start)
    for number, file in enumerate(story.files):
        yield labelled("" if number else "capture", file)
    yield labelled("out", f"{found.packets_out} packets, {size(found.bytes_out)}")
    yield labelled("in", f"{found.packets_in} packets, {size(found.bytes_in)}")
    if found.unseen_bytes:
        yield labelled("unseen", f"{size(found.unseen_bytes)} of the stream were never inspected")
    findings = [finding for finding in story.findings if finding.finding_id != but]
    if not findings:
        yield labelled("findings", "no others" if but else "none")
    for number, finding in enumerate(findings, 1):
        yield ""
        yield from finding_lines(f"finding {number}", finding)
        yield kept_line(finding.finding_id, story.kept.get(finding.finding_id))
    yield ""
    yield from _before(story)


def _before(story: FlowStory) -> Iterator[str]:
    if not story.before:
        yield labelled("before", f"nothing was opened in the {BEFORE} s before")
        return
    more = story.more_before
    span = f"the last {len(story.before)} flows of the {BEFORE} s before" if more else f"in the {BEFORE} s before"
    yield labelled("before", span)
    for each in story.before:
        found = "".join(f" {finding.signature}" for finding in each.findings)
        opened = f" by {program(each.process)}" if each.process is not None and each.process.exe else ""
        yield labelled("", f"-{story.flow.start - each.flow.start:6.3f} s  {brief(each.flow)}{opened}{found}")


def finding_lines(label: str, finding: FindingRecord) -> Iterator[str]:
    """Format a finding: its signature, its effect, and the bytes it is based on."""
    yield labelled(label, f"{finding.signature}  {finding.severity}  {finding.technique}".rstrip())
    yield labelled("", finding.summary)
    yield labelled("", f"{when(finding.time)} UTC: {_verdict(finding.action, finding.mode, REACH[finding.effect])}")
    for line in hexdump(finding.evidence):
        yield labelled("", line)


def doing_line(doing: StepContext, ts: float) -> str:
    """Format the tool calls that were running at time `ts`, or the calls around it, as the framework reported them."""
    if doing.steps:
        calls = (f"{_call(step)}, {ts - step.start:.3f} s after it began" for step in doing.steps)
        return labelled("during", "; ".join(calls))
    around = [f"{ts - doing.before.until:.3f} s after {_call(doing.before)} ended"] if doing.before else []
    around += [f"{doing.after.start - ts:.3f} s before {_call(doing.after)} began"] if doing.after else []
    return labelled("during", f"NO TOOL WAS RUNNING: {', '.join(around)}")


def _call(step: Step) -> str:
    return f"{step.tool or 'a tool'} (step {step.id} of episode {step.episode})"


def kept_line(finding_id: str, kept: KeptPackets | None) -> str:
    """Format the number and size of a finding's kept packets (None: no packets), and the command that exports them."""
    if kept is None:
        return labelled("packets", "none are kept")
    if kept.pruned:
        return labelled("packets", "none are kept: packets of that age were pruned (retention)")
    command = f"egress evidence {finding_id[:8]} -w {finding_id[:8]}.pcapng{case_words()}"
    return labelled("packets", f"{kept.packets} are kept ({size(kept.bytes)}): {command}")


def _verdict(action: Action, mode: Mode, why: str) -> str:
    not_done = ", not carried out (monitor mode)" if mode is Mode.MONITOR else ""
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
    parts += [rule.app, "also unnamed" if rule.unnamed else "", "also private" if rule.private else ""]
    parts += [f"for {rule.agent}"]
    parts += [f"until {when(rule.expires_at)} UTC" if rule.expires_at is not None else "", "once" if rule.once else ""]
    parts += [f"by {rule.author}" if rule.author else "", f"# {rule.comment}" if rule.comment else ""]
    return f"{text}: {' '.join(part for part in parts if part)}"
