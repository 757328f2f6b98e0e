"""Tables for people; a pipe gets whole lines, for grep."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from egress.cli.text import plain

output_option = click.option(
    "-o", "--output", type=click.Choice(["human", "json"]), default="human", show_default=True, help="For whom."
)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header; what comes from the network cannot move the cursor."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(plain("" if cell is None else str(cell))) for cell in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 400).print(shown)


def as_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
