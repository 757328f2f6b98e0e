"""Writes CSV with cells that no spreadsheet evaluates as formulas."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from egress.cli.output.text import plain

# A spreadsheet evaluates text that begins with one of these as a formula, which may send data to another host.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def write(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows as CSV to standard output, each row as `rows` yields it."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def cell(value: object) -> object:
    """Convert a value to a cell: empty for None; control characters in text escaped, and ' put before a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value[:1] in ("\t", "\r", "\n") else text
