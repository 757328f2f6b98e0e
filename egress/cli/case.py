"""`egress case list|show|rm`: lists, shows and deletes cases, each a database made from capture files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import click

from egress.cli.input.params import Listing
from egress.cli.output.tables import as_json, output_option, table
from egress.cli.output.text import plain, size, when
from egress.config import Config, load_config
from egress.errors import EgressError
from egress.records.times import iso
from egress.store.cases.cases import (
    Capture,
    Contents,
    case_path,
    contents,
    disk_size,
    list_cases,
    open_case,
    remove_case,
)

EXAMPLES = """\b
Examples:
  egress replay --into-db incident *.pcap     create a case, or add to it
  egress case list                            all cases
  egress case show incident                   its captures and contents
  egress query --case incident action:reject  also with show, timeline, report, evidence, …
  egress case rm incident
"""
COLUMNS = ("case", "size", "captures", "flows", "findings", "first (UTC)", "last (UTC)")
_MOMENTS = ("added", "finished", "begin", "end")

_config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file, for its state_dir."
)


@click.group("case", cls=Listing, epilog=EXAMPLES)
def command() -> None:
    """List, show and delete cases. `egress replay --into-db` creates them; each is one file, easy to copy and share."""


@command.command("list", epilog=EXAMPLES)
@output_option
@_config_option
def list_(*, output: str, config: Path | None) -> None:
    """List the cases in the state directory, with sizes and times."""
    settings = load_config(config)
    found = {name: _read(settings, name) for name in list_cases(settings)}
    if output == "json":
        as_json([_document(settings, name, held) for name, held in found.items()])
    elif found:
        table(COLUMNS, [_row(settings, name, held) for name, held in found.items()])
    else:
        click.echo("there is no case yet; `egress replay --into-db NAME FILE` creates one", err=True)


@command.command("show", epilog=EXAMPLES)
@click.argument("case")
@output_option
@_config_option
def show(*, case: str, output: str, config: Path | None) -> None:
    """Show the contents of CASE, and its capture files with their hashes."""
    settings = load_config(config)
    held = _read(settings, case)
    if isinstance(held, str):
        raise EgressError(held)
    if output == "json":
        as_json(_document(settings, case, held))
        return
    path = case_path(settings, case)
    click.echo(f"case       {case}  ({plain(str(path))}, {size(disk_size(path))})")
    span = "" if held.begin is None or held.end is None else f", {when(held.begin)} to {when(held.end)} UTC"
    click.echo(f"holds      {held.flows} flows, {held.findings} findings{span}")
    if held.anomalies:
        click.echo(f"           and {held.anomalies} packets without a flow")
    if held.shared:
        click.echo(
            f"           {held.shared} flows are in several captures; of each the record with most packets is kept"
        )
    for capture in held.captures:
        for line in _lines(capture):
            click.echo(line)


@command.command("rm", epilog=EXAMPLES)
@click.argument("cases", metavar="CASE...", nargs=-1, required=True)
@_config_option
def rm(*, cases: tuple[str, ...], config: Path | None) -> None:
    """Delete cases with all their records. The capture files they were made from are not touched."""
    settings = load_config(config)
    for case in cases:
        click.echo(f"deleted case {case} ({plain(str(remove_case(settings, case)))})")


def _read(config: Config, case: str) -> Contents | str:
    """Return a case's contents, or the error message: one damaged file must not hide the others."""
    try:
        engine = open_case(config, case)
    except EgressError as error:
        return str(error)
    try:
        with engine.connect() as connection:
            return contents(connection)
    finally:
        engine.dispose()


def _row(config: Config, name: str, held: Contents | str) -> list[object]:
    room = size(disk_size(case_path(config, name)))
    if isinstance(held, str):
        return [name, room, held]
    moments = (None if moment is None else when(moment) for moment in (held.begin, held.end))
    return [name, room, len(held.captures), held.flows, held.findings, *moments]


def _lines(capture: Capture) -> Iterator[str]:
    yield ""
    yield f"capture {capture.id}  {plain(capture.file)}"
    yield f"           {capture.size} bytes, SHA-256 {capture.sha256}"
    rules = f"policy version {capture.policy_version}" if capture.policy_version else "no rules"
    agents = f"agents in {', '.join(capture.networks)}" if capture.networks else "the opener of each flow is its agent"
    yield f"           added {when(capture.added)} UTC; judged by {rules}; {agents}"
    if capture.finished is None:
        yield "           INCOMPLETE: its replay was interrupted or is still running; replay it again"
        return
    unread = f", {capture.unread} not decoded or of no agent" if capture.unread else ""
    yield f"           {capture.packets} packets, {capture.flows} flows, {capture.findings} findings{unread}"
    if capture.truncated:
        yield f"           {plain(capture.truncated)}; judged up to there"


def _document(config: Config, name: str, held: Contents | str) -> dict[str, object]:
    path = case_path(config, name)
    document: dict[str, object] = {"case": name, "path": str(path), "bytes": disk_size(path)}
    if isinstance(held, str):
        return document | {"error": held}
    return (
        document
        | _moments(dataclasses.asdict(held))
        | {"captures": [_moments(dataclasses.asdict(each)) for each in held.captures]}
    )


def _moments(values: dict[str, object]) -> dict[str, object]:
    """Convert the times among the values to ISO 8601."""
    return {key: iso(value) if key in _MOMENTS and isinstance(value, float) else value for key, value in values.items()}
