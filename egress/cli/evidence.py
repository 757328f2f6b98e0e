"""`egress evidence`: writes the packets kept for a finding to a capture file."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from egress.capture.evidence import to_pcapng
from egress.cli.input.params import case_words
from egress.cli.input.queries import chosen_finding, config_option, records
from egress.errors import EgressError, InputError
from egress.store.query.listing import finding as find_finding
from egress.store.recording.evidence import read, was_pruned

EXAMPLES = """\b
Examples:
  egress evidence 7f3a -w miner.pcapng     by the first digits of its id
  egress evidence 7f3a -w - | tshark -r - -V
"""


@click.command("evidence", epilog=EXAMPLES)
@click.argument("finding", metavar="FINDING")
@click.option("-w", "--write", "target", required=True, metavar="FILE", help="The file; -: standard output.")
@config_option
def command(finding: str, target: str, config: Path | None) -> None:
    """Write the packets kept for FINDING to a pcapng file. Its comments name the finding and its evidence.

    The packets are the first of the flow, within the configured limits of number, size and age.
    """
    with records(config) as engine:
        chosen = chosen_finding(engine, finding)
        with engine.connect() as connection:
            found, kept = find_finding(connection, chosen), read(connection, chosen)
            pruned = found is not None and was_pruned(connection, found)
    if found is None or kept is None or not kept.packets:
        why = "packets of that age were pruned (retention)" if pruned else "none were captured"
        raise EgressError(
            f"no packets are kept for finding {chosen}: {why}; "
            f"`egress show finding {chosen[:8]}{case_words()}` has the bytes it is based on"
        )
    data = to_pcapng(found, kept)
    if target == "-":
        output = sys.stdout.buffer
        if output.isatty():
            raise InputError("a capture is not written to a terminal: name a file with -w, or pipe it into tshark -r -")
        output.write(data)
        output.flush()
        return
    try:
        Path(target).write_bytes(data)
    except OSError as error:
        raise EgressError(f"cannot write {target}: {error.strerror}") from None
    count = len(kept.packets)
    click.echo(f"{count} packet{'s' if count != 1 else ''} of flow {kept.flow_id} written to {target}")
