"""Input of the commands that read records: the query argument, the database, ids by their first digits."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.cells import cell_len

from egress.cli.input.params import case_option, case_words, chosen_case
from egress.cli.output.text import plain, when
from egress.config import load_config
from egress.errors import EgressError, InputError
from egress.store.cases.cases import open_case
from egress.store.database.database import open_database
from egress.store.database.handles import Engine
from egress.store.database.tables import flows
from egress.store.query.reader import finding_ids, flow_ids
from egress.store.query.search import FIELDS, InvalidQueryError, compile_query
from egress.store.query.timeline import span

_F = TypeVar("_F", bound=Callable[..., Any])

DAY = 86400.0  # seconds
SHOWN = 60  # characters of a query, on either side of a mistake

_NEGATED = re.compile(rf"-+(?:\(|(?:{'|'.join(FIELDS)})[:=<>!])")
_PREFIX = re.compile(r"[0-9a-f]{1,16}", re.ASCII)

query_argument = click.argument("words", metavar="[QUERY]...", nargs=-1)
_config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file, which names the database."
)


def config_option(command: _F) -> _F:
    """Add --config, which is passed to the command, and --case; `records` opens the database that they name."""
    return case_option(_config_option(command))


class QueryCommand(click.Command):
    """A command whose arguments are a query: `-proto:udp` is a negated term, not an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [f" {arg}" if _NEGATED.match(arg) else arg for arg in args])


def checked(words: Sequence[str], now: float) -> str:
    """Join the words to a query and check its syntax at the time `now` (seconds since the epoch).

    Shows the place of a mistake on standard error, then raises InvalidQueryError.
    """
    text = " ".join(word.strip() for word in words)
    try:
        compile_query(text, flows, now)
    except InvalidQueryError as mistake:
        for line in pointed(text, mistake.column):
            click.echo(line, err=True)
        raise
    return text


def pointed(text: str, column: int) -> tuple[str, str]:
    """Return the text around a column (counted from 1), and a caret below the column."""
    at = column - 1
    before, after = plain(text[max(0, at - SHOWN) : at]), plain(text[at : at + SHOWN])
    return f"  {before}{after}", f"  {' ' * cell_len(before)}^"


@contextmanager
def records(config: Path | None, *, writes: bool = False) -> Iterator[Engine]:
    """Open the case that --case names, else the config's database; `writes`: the command may store something in it.

    From then on characters that the encoding of standard output lacks are escaped. A schema is never upgraded. Raises
    EgressError if there is no such database, or it has an older schema; a case may have one unless `writes` is set.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # recorded names may have other characters
    settings, case = load_config(config), chosen_case()
    if case:
        engine = open_case(settings, case, writes=writes)
    else:
        engine = open_database(settings.database_url, create=False, migrate=False)
    try:
        yield engine
    finally:
        engine.dispose()


def period(
    engine: Engine, since: float | None, until: float | None, now: float, last: float = DAY
) -> tuple[float, float]:
    """Return begin and end of a period, in seconds since the epoch.

    The default of each (None) is that of the last `last` seconds, or of all records of a case. Raises InputError if the
    end is not later than the begin.
    """
    found = span(engine) if chosen_case() else None
    begin, end = found or (now - last, now)
    begin, end = begin if since is None else since, end if until is None else until
    if end <= begin and (since is not None or until is not None):
        where = f"; the case has records from {when(found[0])} to {when(found[1])} UTC" if found else ""
        raise InputError(f"--until must be later than --since{where}")
    return begin, end


def chosen_flow(engine: Engine, wanted: str) -> str:
    """Return the id of the only flow whose id begins with the digits `wanted`.

    Raises InputError if these are not 1 to 16 hex digits, EgressError if no flow or several match.
    """
    return _chosen(engine, wanted, "flow", flow_ids, f"`egress query{case_words()}` lists flows with their ids")


def chosen_finding(engine: Engine, wanted: str) -> str:
    """Return the id of the only finding whose id begins with the digits `wanted`.

    Raises InputError if these are not 1 to 16 hex digits, EgressError if no finding or several match.
    """
    return _chosen(
        engine, wanted, "finding", finding_ids, f"`egress show FLOW{case_words()}` lists the findings of a flow"
    )


def _chosen(engine: Engine, wanted: str, kind: str, ids: Callable[[Engine, str], tuple[str, ...]], where: str) -> str:
    digits = wanted.strip().lower()
    if not _PREFIX.fullmatch(digits):
        raise InputError(f"{wanted[:60]!a} is not a valid {kind} id of up to 16 digits 0-9 a-f: {where}")
    found = ids(engine, digits)
    if digits in found:
        return digits
    if not found:
        raise EgressError(f"no {kind} begins with {digits}; {where}")
    if len(found) > 1:
        raise EgressError(f"{len(found)} or more {kind}s begin with {digits}; give more digits: {', '.join(found[:5])}")
    return found[0]
