"""`egress verify`: verifies stored records, or segments of a journal, by their chains of hashes (seals)."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from egress.cli.input.queries import config_option, records
from egress.cli.output.tables import as_json, output_option
from egress.config import load_config
from egress.errors import EgressError
from egress.store.query.verifying import Verification, quarantined_leaf, verify, verify_segments
from egress.store.recording.quarantine import quarantine_file

EXAMPLES = """\b
Examples:
  egress verify                          the live records; exit code 3: something was changed, removed or added
  egress verify --case copy.db           a copy of the database, on any machine
  egress verify --head 9f86d081…         and the seal with this digest, which a gateway logged, is still there
  egress verify --journal /mnt/journal   segments of a journal, or copies of them
"""


@click.command("verify", epilog=EXAMPLES)
@click.option("--head", "heads", multiple=True, metavar="HASH", help="A digest seen before, as gateways log it.")
@click.option(
    "--journal",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Verify these segments instead of a database.",
)
@output_option
@config_option
def command(heads: tuple[str, ...], journal: Path | None, output: str, config: Path | None) -> None:
    """Verify records by the chains of hashes over them. Exit code 3: something was changed, removed or added.

    A seal has a hash of the journal lines since the seal before it, and of that seal. A writer seals its lines after
    ten seconds, so the newest records have no seal yet. Gaps are listed too, but do not change the exit code:
    they cannot be verified for a known reason, such as a killed worker, a removed segment, records that could not be
    written, or retention.
    """
    if journal is not None:
        try:
            found = verify_segments(journal)
        except OSError as error:
            raise EgressError(f"cannot read {journal}: {error.strerror}") from None
    else:
        with records(config) as engine:
            found = verify(engine, _quarantined(quarantine_file(load_config(config))), heads, time.time())
    if output == "json":
        as_json(_document(found))
    else:
        _show(found)
    sys.exit(3 if found.counts["faults"] else 0)


def _quarantined(path: Path) -> set[bytes]:
    """Return the hashes (leaves) of the lines in a quarantine file, up to the first that cannot be read."""
    found = set()
    with suppress(OSError, ValueError, KeyError, AttributeError), path.open(encoding="ascii") as file:
        for entry in map(json.loads, file):
            found.add(quarantined_leaf(entry["line"]))
    return found


def _show(found: Verification) -> None:
    for text in found.faults:
        click.echo(f"FAULT  {text}", err=True)
    for text in found.gaps:
        click.echo(f"gap    {text}")
    for seal in found.heads.values():
        click.echo(f"head   {seal.writer} of {seal.host or '?'}: seal {seal.number}, {seal.digest}")
    counts = found.counts
    words = ("matched", "before seals", "not sealed yet", "pruned", "quarantined", "faults", "gaps")
    text = ", ".join(f"{counts[word]} {word}" for word in words)
    click.echo(f"{counts['rows']} records, {counts['lines']} sealed lines in {counts['seals']} seals: {text}")


def _document(found: Verification) -> dict[str, object]:
    heads = {chain: {"number": seal.number, "digest": seal.digest} for chain, seal in found.heads.items()}
    return {"faults": found.faults, "gaps": found.gaps, "heads": heads, "counts": dict(found.counts)}
