"""`egress simulate`: re-judges stored flows by other rules. `egress policy replay` shares its options and output."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from egress.cli.input.client import PATIENCE, ApiClient, api_options
from egress.cli.input.params import read_document
from egress.cli.output.tables import output_option
from egress.cli.simulation import show, simulation_options

EXAMPLES = """\b
Examples:
  egress simulate new-rules.yaml --since 24h
  egress simulate new-rules.yaml --since 7d -o json
  egress simulate new-rules.yaml --case incident     over the flows of a case
"""


@click.command("simulate", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option
@simulation_options
@api_options
def command(*, api: ApiClient, file: Path, params: dict[str, object], output: str) -> None:
    """Re-judge the stored flows by the rules in FILE instead of all rules in force, and show what would change.

    Exit code 3: a flow that passed would be refused.
    """
    data, kind = read_document(file)
    found = api.call("POST", "/simulate", params=params, content=data, kind=kind, seconds=PATIENCE)
    sys.exit(show(found, params["default"], output))
