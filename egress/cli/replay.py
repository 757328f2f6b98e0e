"""`egress replay`: judges capture files and reports the findings, as text or as one JSON document per file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import click

from egress.cli.output.text import endpoint, plain
from egress.config import load_config
from egress.errors import EgressError
from egress.model import Policy, Rule
from egress.policy.file import load_policy
from egress.records.times import iso
from egress.replay import STDIN, Found, Network, Report, replay

if TYPE_CHECKING:
    from egress.cli.output.caseoutput import CaseOutput

PROGRESS_BYTES = 8 * 1024 * 1024  # files from this size on take long enough for a progress bar
FOUND = 3

_Judge = Callable[[Path, Callable[[int], object]], Report]

EXAMPLES = """\b
Examples:
  egress replay capture.pcap                           the opener of each flow is its agent
  egress replay --agent-net 10.77.0.0/16 host.pcapng   only these addresses are agents
  egress replay -o json *.pcap | jq .findings          one document per file
  tcpdump -w - | egress replay -                       from a pipe, reported at its end
  egress replay --into-db incident *.pcap              store records: egress query --case incident
  egress replay --into-db ./incident.db host.pcap      in a file of your own, no root needed
"""


def _networks(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> list[Network]:
    try:
        return [ip_network(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(f"{error}: give a network such as 10.77.0.0/16") from None


@click.command("replay", epilog=EXAMPLES)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Policy file: the rules to judge by.",
)
@click.option(
    "--agent-net",
    "networks",
    metavar="CIDR",
    multiple=True,
    callback=_networks,
    help="Addresses of agents; may be repeated. Without it the opener of each flow is the agent.",
)
@click.option(
    "--into-db",
    "case",
    metavar="CASE",
    help="Store all records in this case, a separate database: a name, or a path that ends in .db.",
)
@click.option(
    "-o", "--output", type=click.Choice(["human", "json"]), default="human", show_default=True, help="Output format."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file: cases are in state_dir.")
@click.pass_context
def command(
    context: click.Context,
    files: tuple[Path, ...],
    policy_file: Path | None,
    networks: list[Network],
    case: str | None,
    output: str,
    config: Path | None,
) -> None:
    """Judge capture files as the gateway would have.

    Files are pcap or pcapng, judged at their own timestamps; - is the standard input. With --into-db the records are
    stored in a case, for all commands that read records: egress query --case CASE. An existing case is added to; a file
    that is already in it is not stored twice.

    Exit code: 0 nothing found, 3 something found, 1 a file could not be read, 2 wrong usage. A capture counts as one
    that could not be read, too, if no packet in it can be read, for example because its link type is not supported.
    """
    if case is not None and STDIN in files:
        raise click.UsageError("--into-db keeps files that can be read again; write the standard input into one")
    rules = load_policy(policy_file) if policy_file else ()
    if case is None:
        policy = Policy(1, rules) if policy_file else Policy()
        context.exit(_replay(files, lambda path, progress: replay(path, policy, networks, progress), output))
    with _case_output(case, rules, networks, config) as case_output:
        code = _replay(files, case_output.judge, output)
        click.echo(case_output.hint, err=output == "json")
    context.exit(code)


@contextmanager
def _case_output(
    case: str, rules: tuple[Rule, ...], networks: list[Network], config: Path | None
) -> Iterator[CaseOutput]:
    """Open the case, or create it; close it at the end. Raises EgressError."""
    from egress.cli.output.caseoutput import CaseOutput  # loads SQLAlchemy, which a plain replay does not need

    case_output = CaseOutput(load_config(config), case, rules, networks)
    try:
        yield case_output
    finally:
        case_output.close()


def _replay(files: tuple[Path, ...], judge: _Judge, output: str) -> int:
    """Judge each file and print its report; go on after a file that cannot be read. Returns the exit code."""
    show = _json if output == "json" else _human
    code = 0
    for path in files:
        try:
            with _progress(path) as progress:
                report = judge(path, progress)
        except EgressError as error:
            click.echo(f"egress: {plain(str(error))}", err=True)
            code = 1
            continue
        for problem in _problems(report):
            click.echo(f"egress: {plain(str(path))}: {plain(problem)}", err=True)
        click.echo(show(report))
        if report.unread:
            code = 1
        elif report.findings and not code:
            code = FOUND
    return code


def _problems(report: Report) -> Iterator[str]:
    """Yield a phrase for each part of a file that was not judged."""
    if report.unread:
        yield f"nothing could be read: {report.unread}"
        return
    if report.truncated:
        yield f"{report.truncated}; judged up to there"
    for frames in report.strangers:
        yield f"{frames} could not be read; judged without them"


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on stderr, if the file is long and stderr is a terminal.

    Yields the function that moves the bar: it takes the number of bytes that were read.
    """
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # replay reports the error
    if size < PROGRESS_BYTES or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(plain(path.name)), total=size)
        yield lambda done: bar.update(task, completed=done)


def _json(report: Report) -> str:
    return json.dumps(
        {
            "file": report.file,
            "packets": report.packets,
            "flows": report.flows,
            "without_ip": report.without_ip,
            "decode_errors": report.decode_errors,
            "unattributed": report.unattributed,
            "anomalies": report.anomalies,
            "truncated": report.truncated or None,
            "unread": report.unread or None,
            "findings": [_found(found) for found in report.findings],
            "findings_omitted": report.findings_omitted,
        }
    )


def _found(found: Found) -> dict[str, object]:
    record = found.record
    return {
        "signature": record.signature,
        "severity": record.severity,
        "flow": {
            "src": record.src,
            "sport": record.sport,
            "dst": record.dst,
            "dport": record.dport,
            "proto": record.proto,
        },
        "frame": found.frame,
        "time": iso(found.time),
        "summary": record.summary,
        "evidence": _ascii(record.evidence),
    }


def _human(report: Report) -> str:
    counts = [_count(report.packets, "packet"), _count(report.flows, "flow")]
    if report.without_ip:
        counts.append(f"{report.without_ip} without IP")
    if report.decode_errors:
        counts.append(f"{report.decode_errors} not decoded")
    if report.unattributed:
        counts.append(f"{report.unattributed} of no agent")
    counts += [f"{count} refused ({reason})" for reason, count in sorted(report.anomalies.items())]
    found = len(report.findings) + report.findings_omitted
    counts.append(_count(found, "finding") if found else "nothing read" if report.unread else "nothing found")
    lines = [f"{plain(report.file)}: {', '.join(counts)}"]
    for found_ in report.findings:
        record = found_.record
        flow = f"{endpoint(record.src, record.sport)} -> {endpoint(record.dst, record.dport)} {record.proto}"
        lines += [
            f"  {record.severity} {record.signature}  {flow}  frame {found_.frame}  {iso(found_.time)}",
            f"    {plain(record.summary)}",
            f"    evidence: {_ascii(record.evidence)}",
        ]
    if report.findings_omitted:
        lines.append(f"  and {report.findings_omitted} more")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ascii(evidence: bytes) -> str:
    """Format bytes so that a terminal cannot interpret them: printable ASCII, the rest as \\xNN."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in evidence)
