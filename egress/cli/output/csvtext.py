"""Writes CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from egress.cli.output.text import plain

_FORMULA = tuple(
    "=+-@\uff1d\uff0b\uff0d\uff20"
)  # a spreadsheet computes text that begins so, or asks the network for it


def write(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write to standard output, row by row as rows arrive."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def cell(value: object) -> object:
    """Convert a value to a cell: text without control characters, with an apostrophe before a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value[:1] in ("\t", "\r", "\n") else text
