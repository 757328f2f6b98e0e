"""The query language of the CLI and the API, compiled to SQLAlchemy conditions.

    agent:rome-* signature:ssh.* dest:203.0.113.0/24 name:*.example.com port:443 action:reject since:2h -proto:udp
    (bytes>1mb or packets>=1000) and not app:tls

Terms side by side are joined by *and*, which binds closer than *or*; `-` and `not` negate. A value may be a list (any
of `action:reject,drop`), a glob if the field is text, a range if it is a number (`port:8000-8100`), and quoted.
`FIELDS` lists the fields. A search for findings matches a flow's field against the finding's flow; a search for flows
matches a finding's field against any finding on the flow. A process' field is matched against the process that opened
the flow, a step's field against any step that was under way at the time (`JOINS`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib import resources
from itertools import islice
from typing import TypeVar

import sqlalchemy as sa
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedEOF, UnexpectedInput, UnexpectedToken

from egress.errors import InputError
from egress.model import Action, Effect, Mode, Reason, Severity
from egress.records.shape import DIRECTIONS, FLOW_STATES, ProcessStatus
from egress.store.database.matching import any_name, glob, inside, unclosed
from egress.store.database.tables import findings, flows, processes, steps
from egress.store.query.processes import OF_FLOW
from egress.store.query.stepjoin_sql import happened_during

MAX_QUERY = 4096  # characters
MAX_VALUES = 300  # in all terms; each makes the SQL expression deeper, and SQLite's limit is a depth of 1000
MAX_DEPTH = 32  # nested parentheses and negations
MAX_NUMBER = (1 << 63) - 1

Expression = sa.ColumnElement[bool]
_T = TypeVar("_T")
_AGO = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE = re.compile(r"([0-9]{1,16})([kmgt]?)b?", re.ASCII | re.IGNORECASE)
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_RANGE = re.compile(r"([0-9a-z]+)-([0-9a-z]+)", re.ASCII | re.IGNORECASE)
_NAMED = re.compile(r"""([^\s(),":=<>!]+)[:=<>!]""")
_IDENTITY = re.compile(r"[0-9a-f]{1,16}", re.ASCII)


class InvalidQueryError(InputError):
    """The query is not valid. `column` counts characters from 1; the text is one line."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(f"query, column {column}: {reason}")
        self.column, self.reason = column, reason


class _TermError(Exception):
    """A value is not valid; the text is a phrase that follows the value (`must be …`)."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the language: its meaning, its operators, and how it becomes a condition on a table."""

    about: str  # one line, for --help and the documentation
    table: sa.Table  # the table whose columns `build` uses
    build: Callable[[str, str, float], Expression]  # operator, value, now
    ordered: bool = False  # takes < <= > >=
    selective: bool = False  # a value matches few flows, so the search should start from them


def compile_query(text: str, table: sa.Table, now: float) -> Expression:
    """The query as a condition on `table` (flows or findings). Raises InvalidQueryError.

    `now`: seconds since the epoch, for `since:2h`. An empty query matches every row.
    """
    tree = _parse(text)
    values = list(islice(tree.scan_values(lambda token: getattr(token, "type", "") == "ITEM"), MAX_VALUES + 1))
    if len(values) > MAX_VALUES:
        raise InvalidQueryError(
            _at(values[-1]), f"a query has at most {MAX_VALUES} values; write globs, CIDRs or ranges"
        )
    return _condition(tree.children[0], table, now, 0) if tree.children else sa.true()


def one(name: str, value: str, table: sa.Table, now: float) -> Expression:
    """The condition on `table` that a field of FIELDS matches `value`. Raises InputError if the value is not valid.

    `now`: as for `compile_query`.
    """
    field = FIELDS[name]
    try:
        return _on(field, field.build(":", value, now), table)
    except _TermError as wrong:
        raise InputError(f"{value[:60]!a} {wrong}") from None


def is_selective(text: str) -> bool:
    """True if every match must match a term of a selective field, so that matches are few. Raises InvalidQueryError."""
    tree = _parse(text)
    return bool(tree.children) and _selective(tree.children[0])


def _selective(node: Tree[Token] | Token) -> bool:
    assert isinstance(node, Tree)
    if node.data == "term":
        name, operator, _ = node.children
        return str(operator) in (":", "=") and FIELDS[str(name)].selective
    if node.data == "negation":
        return False
    parts = map(_selective, node.children)
    return all(parts) if node.data == "either" else any(parts)


@lru_cache(maxsize=16)
def _parse(text: str) -> Tree[Token]:
    if len(text) > MAX_QUERY:
        raise InvalidQueryError(MAX_QUERY + 1, f"a query has at most {MAX_QUERY} characters")
    try:
        return _parser().parse(text)
    except UnexpectedEOF as error:
        raise InvalidQueryError(len(text) + 1, "it ends where a term is expected") from error
    except UnexpectedInput as error:
        raise InvalidQueryError(_column(error, text), _expected(error, text)) from None


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = resources.files("egress.store.query").joinpath("search.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True)


def _column(error: UnexpectedInput, text: str) -> int:
    at = error.pos_in_stream
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        at = len(text)
    return (len(text) if at is None else at) + 1


def _expected(error: UnexpectedInput, text: str) -> str:
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return "it ends too early: add a term like agent:rome-7, or a closing parenthesis"
    at = error.pos_in_stream or 0
    rest = text[at:].split(maxsplit=1)[0] if text[at:].split() else ""
    if rest.startswith('"') and text.count('"', at) == 1:
        return "the quote that begins here is not closed"
    if named := _NAMED.match(rest):
        return f"unknown field {named[1][:40]!a}; the fields are {', '.join(FIELDS)}"
    if re.fullmatch(r"[A-Za-z_.*0-9-]+", rest) and rest.lower() not in ("and", "or", "not"):
        return f"{rest[:40]!a} is not a term: write field:value, such as agent:{rest[:40]}"
    return f"{rest[:40]!a} is not expected here: write terms like agent:rome-7, and, or, not, parentheses"


def _condition(node: Tree[Token] | Token, table: sa.Table, now: float, depth: int) -> Expression:
    if depth > MAX_DEPTH:
        raise InvalidQueryError(1, f"more than {MAX_DEPTH} nested parentheses and negations")
    assert isinstance(node, Tree)
    if node.data == "term":
        return _term(node, table, now)
    parts = [_condition(child, table, now, depth + 1) for child in node.children]
    if node.data == "negation":
        return sa.not_(parts[0])
    return sa.or_(*parts) if node.data == "either" else sa.and_(*parts)


def _term(node: Tree[Token], table: sa.Table, now: float) -> Expression:
    name, operator, value = node.children
    assert isinstance(name, Token)
    assert isinstance(value, Tree)
    field = FIELDS.get(name.value)
    if field is None:
        raise InvalidQueryError(_at(name), f"unknown field {name.value}; the fields are {', '.join(FIELDS)}")
    sign = str(operator).replace("=", ":") if str(operator) in ("=", "!=") else str(operator)
    if sign not in (":", "!:") and not field.ordered:
        raise InvalidQueryError(
            _at(operator), f"{name.value} cannot be compared with {operator}; write {name.value}:value"
        )
    each = []
    for item in value.children:
        text = str(item).strip('"')
        try:
            each.append(field.build(":" if sign == "!:" else sign, text, now))
        except _TermError as wrong:
            raise InvalidQueryError(_at(item), f"{name.value}: {text[:60]!a} {wrong}") from None
    found = _on(field, sa.or_(*each), table)
    return sa.not_(found) if sign == "!:" else found


def _on(field: Field, found: Expression, table: sa.Table) -> Expression:
    """Turn a condition on the field's table into one on `table` (JOINS)."""
    return found if field.table is table else JOINS[table.name, field.table.name](found)


def _at(token: object) -> int:
    return (token.start_pos or 0) + 1 if isinstance(token, Token) else 1


# --- conditions on other tables ------------------------------------------------------------------------------------


def _same_flow(table: sa.Table, other: sa.Table, found: Expression) -> Expression:
    """The condition on `table` that a row of `other` with the same flow fulfils `found`."""
    terms = [other.c.flow_id == table.c.flow_id, found]
    if {table, other} == {flows, processes}:
        terms.append(OF_FLOW)  # the whole key of processes
    return sa.exists().where(*terms).correlate(table)


def _has_finding(condition: Expression) -> Expression:
    """The condition on flows that a finding on them fulfils `condition`. Findings are few: start from them."""
    return flows.c.flow_id.in_(sa.select(findings.c.flow_id).where(condition))


# (queried table, table of the field) → how the field's condition becomes one on the queried table.
JOINS: dict[tuple[str, str], Callable[[Expression], Expression]] = {
    ("flows", "findings"): _has_finding,
    ("findings", "flows"): partial(_same_flow, findings, flows),
    ("flows", "processes"): partial(_same_flow, flows, processes),
    ("findings", "processes"): partial(_same_flow, findings, processes),
    ("flows", "steps"): partial(happened_during, flows),
    ("findings", "steps"): partial(happened_during, findings),
}


# --- fields ------------------------------------------------------------------------------------------------


def _text(column: sa.Column[str], _operator: str, value: str, _now: float) -> Expression:
    return glob(column, _pattern(value))


def _pattern(value: str) -> str:
    if unclosed(value):
        raise _TermError("has a [ without a ]; write [[] for the character itself")
    return value


def _known(known: tuple[str, ...], column: sa.Column[str], _operator: str, value: str, _now: float) -> Expression:
    if value not in known:
        raise _TermError(f"must be one of {', '.join(known)}")
    return sa.type_coerce(column, sa.Text) == value


def _number(column: sa.ColumnElement[int], operator: str, value: str, _now: float) -> Expression:
    between = _RANGE.fullmatch(value)
    if between is not None and operator == ":":
        low, high = _count(between[1]), _count(between[2])
        if low > high:
            raise _TermError("must be a range with the smaller number first")
        return column.between(low, high)
    return _compare(column, operator, _count(value))


def _count(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or (number := int(match[1]) * _DECIMAL[match[2].lower()]) > MAX_NUMBER:
        raise _TermError("must be a number, possibly with k, m or g (10mb), or a range (8000-8100)")
    return number


def _compare(column: sa.ColumnElement[_T], operator: str, value: _T) -> Expression:
    if operator == ":":
        return column == value
    return {"<": column < value, "<=": column <= value, ">": column > value, ">=": column >= value}[operator]


def _address(column: sa.Column[str], _operator: str, value: str, _now: float) -> Expression:
    try:
        return inside(column, ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise _TermError("must be an address (192.0.2.7) or a CIDR (192.0.2.0/24); for a name use name:") from None


def _name(_operator: str, value: str, _now: float) -> Expression:
    return sa.or_(glob(flows.c.server_name, _pattern(value)), any_name(flows.c.names, value))


def _process(_operator: str, value: str, _now: float) -> Expression:
    exe, cmdline, value = processes.c.exe, processes.c.cmdline, _pattern(value)
    program = sa.or_(glob(exe, value), glob(exe, f"*/{value}"), glob(cmdline, value))
    return sa.and_(program, processes.c.status == ProcessStatus.FOUND)


def _pid(operator: str, value: str, now: float) -> Expression:
    return sa.or_(*(_number(column, operator, value, now) for column in (processes.c.pid, processes.c.inner_pid)))


def _container(_operator: str, value: str, _now: float) -> Expression:
    """The condition that a container's runtime matches, or the beginning of its id: docker's tools shorten ids."""
    value = _pattern(value)
    named = glob(processes.c.container, value if "*" in value else f"{value}*")
    return sa.and_(processes.c.container != "", sa.or_(named, glob(processes.c.runtime, value)))


def _identity(column: sa.Column[str], _operator: str, value: str, _now: float) -> Expression:
    if not _IDENTITY.fullmatch(value):
        raise _TermError("must be the first digits (0-9 a-f) of an id")
    return sa.and_(column >= value, column < value + "g")  # hex digits end at f


def _moment(text: str, now: float) -> float:
    if match := _AGO.fullmatch(text):
        return now - int(match[1]) * _UNITS[match[2]]
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _TermError("must be an age (15m, 2h, 7d) or a time in UTC (2026-11-23T15:00)") from None


def _since(_operator: str, value: str, now: float) -> Expression:
    return flows.c.updated >= _moment(value, now)


def _until(_operator: str, value: str, now: float) -> Expression:
    return flows.c.start <= _moment(value, now)


_BYTES = flows.c.bytes_out + flows.c.bytes_in
_PACKETS = flows.c.packets_out + flows.c.packets_in

FIELDS: dict[str, Field] = {
    "agent": Field("the agent's name, or a glob", flows, partial(_text, flows.c.agent)),
    "signature": Field(
        "a finding's signature: ssh.*, mining.stratum",
        findings,
        partial(_text, findings.c.signature),
        selective=True,
    ),
    "severity": Field(
        "a finding's severity", findings, partial(_known, tuple(Severity), findings.c.severity), selective=True
    ),
    "effect": Field(
        "the target that a finding refuses: flow, destination; none: found by a hunt",
        findings,
        partial(_known, tuple(Effect), findings.c.effect),
    ),
    "dest": Field("the destination's address or CIDR", flows, partial(_address, flows.c.dst)),
    "src": Field("the opener's address or CIDR", flows, partial(_address, flows.c.src)),
    "name": Field("a name in the bytes or bound to the address, or a glob", flows, _name),
    "port": Field("the destination's port, or a range", flows, partial(_number, flows.c.dport), ordered=True),
    "proto": Field("tcp, udp, icmp, …", flows, partial(_text, flows.c.proto)),
    "app": Field("the application protocol: tls, ssh, http, …", flows, partial(_text, flows.c.app_proto)),
    "expected": Field(
        "what the rule demands of a flow refused for its application", flows, partial(_text, flows.c.app_expected)
    ),
    "action": Field("the decision", flows, partial(_known, tuple(Action), flows.c.action)),
    "reason": Field("the reason of the decision", flows, partial(_known, tuple(Reason), flows.c.reason)),
    "rule": Field("the id of the rule that decided, or a glob", flows, partial(_text, flows.c.rule_id)),
    "policy": Field("the policy's version", flows, partial(_number, flows.c.policy_version), ordered=True),
    "mode": Field("the agent's mode", flows, partial(_known, tuple(Mode), flows.c.mode)),
    "direction": Field("out: opened by the agent", flows, partial(_known, DIRECTIONS, flows.c.direction)),
    "state": Field("new, established, closed, …", flows, partial(_known, FLOW_STATES, flows.c.state)),
    "flow": Field("the first digits of a flow's id", flows, partial(_identity, flows.c.flow_id), selective=True),
    "finding": Field(
        "the first digits of a finding's id", findings, partial(_identity, findings.c.finding_id), selective=True
    ),
    "process": Field("the executable or command line that opened it: curl, */python3*, *xmrig*", processes, _process),
    "pid": Field("the process id, on the host or in its own namespace", processes, _pid),
    "container": Field("the first digits of the container's id, or the runtime: docker", processes, _container),
    "attribution": Field(
        "result of the search for the process: found, gone, unknown",
        processes,
        partial(_known, tuple(ProcessStatus), processes.c.status),
    ),
    "tool": Field("a tool that was running when it began; -tool:* for none", steps, partial(_text, steps.c.tool)),
    "episode": Field("the id of an episode with a step under way", steps, partial(_text, steps.c.episode)),
    "step": Field("the id of a step that was under way", steps, partial(_text, steps.c.id)),
    "bytes": Field("bytes of both directions: bytes>1mb", flows, partial(_number, _BYTES), ordered=True),
    "bytes_out": Field("bytes from the agent", flows, partial(_number, flows.c.bytes_out), ordered=True),
    "bytes_in": Field("bytes to the agent", flows, partial(_number, flows.c.bytes_in), ordered=True),
    "packets": Field("packets of both directions", flows, partial(_number, _PACKETS), ordered=True),
    "since": Field("active then or later: 2h, 2026-11-23T15:00", flows, _since, selective=True),
    "until": Field("begun by then", flows, _until),
}
