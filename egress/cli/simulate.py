"""`egress simulate`: what would another policy have done to the flows of the last hours?"""

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
  egress simulate new-rules.yaml --case incident     what it would have done to a capture
"""


@click.command("simulate", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@output_option
@simulation_options
@api_options
def command(*, api: ApiClient, file: Path, params: dict[str, object], output: str) -> None:
    """Judge the stored flows by the rules in FILE, in place of all rules in force, and show what would change.

    Exit code 3: something that passed would be refused.
    """
    data, kind = read_document(file)
    found = api.call("POST", "/simulate", params=params, content=data, kind=kind, seconds=PATIENCE)
    sys.exit(show(found, params["default"], output))
