"""Prints tables and JSON. In a pipe a table is 400 columns wide, so that grep finds whole rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from egress.cli.output.text import plain

SHORT = 10  # columns; a cell this narrow is never folded

output_option = click.option(
    "-o", "--output", type=click.Choice(["human", "json"]), default="human", show_default=True, help="Output format."
)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below a header of column names. None is an empty cell; control characters are escaped."""
    cells = [[plain("" if cell is None else str(cell)) for cell in row] for row in rows]
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at, name in enumerate(columns):
        # If the terminal is too narrow, only long cells are folded.
        widest = max((cell_len(row[at]) for row in cells if at < len(row)), default=0)
        shown.add_column(name, overflow="fold", no_wrap=widest <= SHORT, min_width=min(widest, SHORT))
    for row in cells:
        shown.add_row(*map(Text, row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 400).print(shown)


def as_json(value: object) -> None:
    """Print a value of JSON types as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
