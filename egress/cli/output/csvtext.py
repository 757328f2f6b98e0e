"""CSV that is only data, whatever program opens it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence

from egress.cli.output.text import plain

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # what a spreadsheet computes, or asks the network for


def write(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write to standard output, row by row as they come."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def cell(value: object) -> object:
    """A value as a cell: text without control characters, and with an apostrophe before what would be a formula."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value[:1] in ("\t", "\r", "\n") else text
