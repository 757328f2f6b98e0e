"""Builds a table of flows with as many columns as fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from egress.cli.output.processes import process_cell
from egress.cli.output.text import endpoint, plain, size, when
from egress.model import Action, Mode, Reason
from egress.store.query.reader import FlowDetails

GAP = 2  # between columns

_COLOURS = {Action.ACCEPT: "green", Action.REJECT: "red", Action.DROP: "red", Action.HOLD: "yellow"}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    cell: Callable[[FlowDetails], str]
    right: bool = False
    folds: bool = False  # folded if even the fewest columns are too wide


def _action(details: FlowDetails) -> str:
    flow = details.flow
    return f"{flow.action} ({flow.mode})" if flow.mode is Mode.MONITOR else flow.action


def _short_action(details: FlowDetails) -> str:
    flow = details.flow
    return f"({flow.action})" if flow.mode is Mode.MONITOR else flow.action


def _why(details: FlowDetails) -> str:
    """List the verdict's reason and the signatures of the findings; the signatures alone if they are the reason."""
    flow, signatures = details.flow, list(dict.fromkeys(finding.signature for finding in details.findings))
    if flow.reason is Reason.FINDING and signatures:
        return ", ".join(signatures)
    reason = f"{flow.reason} {flow.rule_id}".rstrip()
    return ", ".join([reason, *signatures])


def _moment(details: FlowDetails) -> str:
    return when(details.flow.start)[5:19]


def _minute(details: FlowDetails) -> str:
    return when(details.flow.start)[:16]


_ALL = (
    _Column("flow", lambda details: details.flow.flow_id[:8]),
    _Column("time (UTC)", lambda details: when(details.flow.start)),
    _Column("agent", lambda details: details.flow.agent, folds=True),
    _Column("action", _action),
    _Column("proto", lambda details: details.flow.proto),
    _Column("source", lambda details: details.flow.src, folds=True),
    _Column("destination", lambda details: endpoint(details.flow.dst, details.flow.dport), folds=True),
    _Column("app", lambda details: details.flow.app_proto, folds=True),
    _Column("name", lambda details: details.flow.server_name, folds=True),
    _Column("bytes", lambda details: size(details.flow.bytes_out + details.flow.bytes_in), right=True),
    _Column("why", _why, folds=True),
)
_PROCESS = _Column("process", lambda details: process_cell(details.process), folds=True)
# On a narrow terminal these columns are shortened or, with None, dropped, in this order. `egress show` has everything.
_LESS: tuple[tuple[str, Callable[[FlowDetails], str] | None], ...] = (
    ("source", None),
    ("time (UTC)", lambda details: when(details.flow.start)[:19]),
    ("action", _short_action),
    ("bytes", None),
    ("app", None),
    ("proto", None),
)


def flow_table(shown: Sequence[FlowDetails], width: int, *, processes: bool = False) -> Table:
    """Build the table for a terminal of `width` columns, a row for each flow; `processes` adds a column.

    If it is too wide, columns are shortened or left out. Cells are Text, because rich would read a string as markup.
    """
    columns = [*_ALL, _PROCESS] if processes else list(_ALL)
    cells = {column.name: _cells(column, shown) for column in columns}
    one_year = len({when(details.flow.start)[:4] for details in shown}) == 1
    for name, cell in (*_LESS, ("time (UTC)", _moment if one_year else _minute)):
        if _needed(columns, cells) <= width:
            break
        at = next(number for number, column in enumerate(columns) if column.name == name)
        if cell is None:
            del columns[at]
        else:
            columns[at] = replace(columns[at], cell=cell)
            cells[name] = _cells(columns[at], shown)
    gap = GAP if _needed(columns, cells) <= width else 1
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for column in columns:
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.name, justify=side, overflow="fold", no_wrap=not column.folds)
    for number, details in enumerate(shown):
        row = {column.name: Text(cells[column.name][number]) for column in columns}
        row["action"].stylize(_COLOURS[details.flow.action])
        table.add_row(*row.values())
    return table


def _cells(column: _Column, shown: Sequence[FlowDetails]) -> list[str]:
    return [plain(column.cell(details)) for details in shown]


def _needed(columns: Sequence[_Column], cells: dict[str, list[str]]) -> int:
    widest = (max(map(cell_len, (column.name, *cells[column.name]))) for column in columns)
    return sum(widest) + GAP * (len(columns) - 1)
