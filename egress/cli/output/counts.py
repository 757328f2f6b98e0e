"""`egress query --count-by`: groups of flows as a table, JSON or CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace

import click

from egress.cli.output import csvtext
from egress.cli.output.tables import table
from egress.cli.output.text import size, when
from egress.records.times import iso
from egress.store.database.handles import Engine
from egress.store.query.counting import ORDERS, Count, count_by
from egress.store.query.reader import Filter

__all__ = ["ORDERS", "print_counts"]


def print_counts(
    engine: Engine, wanted: Filter, keys: tuple[str, ...], order: str, output: str, most: int | None
) -> None:
    """Print the groups of flows with equal values of `keys`, greatest by `order` first.

    `order` is one of ORDERS (a leading - has no effect; empty: flows). `output` is human, table, csv, jsonl or json.
    The filter's limit bounds the number of groups; without one `most` does; None: all groups.
    """
    limit = wanted.limit or most
    one_more = None if limit is None else limit + 1
    found = count_by(engine, replace(wanted, limit=None), keys, one_more, order.removeprefix("-") or "flows")
    with closing(found):
        groups: Iterable[Count] = found
        if output in ("human", "table"):
            _table(list(groups), keys, limit or 0)
            return
        if limit is not None:
            groups = list(found)[:limit]
        if output == "csv":
            csvtext.write((*keys, "flows", "findings", "refused", "bytes", "first", "last"), map(_cells, groups))
        elif output == "jsonl":
            for group in groups:
                click.echo(json.dumps(_document(keys, group)))
        else:
            click.echo(json.dumps({"counts": [_document(keys, group) for group in groups]}))


def _table(groups: list[Count], keys: tuple[str, ...], limit: int) -> None:
    if not groups:
        click.echo("No flow matches; drop a part of the query.")
        return
    rows = [
        (*(value or "-" for value in group.values), group.flows, group.findings or "-", group.refused,
         size(group.bytes), when(group.first)[:19], when(group.last)[:19])
        for group in groups[:limit]
    ]  # fmt: skip
    table((*keys, "flows", "findings", "refused", "bytes", "first (UTC)", "last (UTC)"), rows)
    if len(groups) > limit:
        click.echo(f"the first {limit}; there are more: --limit {limit * 10}")


def _cells(group: Count) -> tuple[object, ...]:
    counted = (group.flows, group.findings, group.refused, group.bytes)
    return (*group.values, *counted, iso(group.first), iso(group.last))


def _document(keys: tuple[str, ...], group: Count) -> dict[str, object]:
    numbers = asdict(group)
    del numbers["values"]
    numbers |= {"first": iso(group.first), "last": iso(group.last)}
    return {"by": dict(zip(keys, group.values, strict=True)), **numbers}
