"""A protocol is a file in egress/wire and one in egress/dissection: a missing half is named."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from egress.dissection.protocol import Form, Place, StreamProtocol
from egress.dissection.registry import REGISTRY, Registry, load
from egress.model import TCP, App, Direction

ROOT = Path(__file__).resolve().parent.parent.parent
WIRE, DISSECTION = ROOT / "egress" / "wire", ROOT / "egress" / "dissection"


def used(path: Path) -> set[str]:
    """The modules of egress.wire that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == "egress.wire":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("egress.wire."):
            names.add((node.module or "").rpartition(".")[2])
    return names


def test_every_reader_of_a_protocol_is_used() -> None:
    """A parser that no protocol uses would find nothing, silently."""
    needed = set[str]().union(*(used(path) for path in (ROOT / "egress").rglob("*.py") if path.parent != WIRE))
    while more := set[str]().union(*(used(WIRE / f"{name}.py") for name in needed)) - needed:
        needed |= more
    idle = sorted({path.stem for path in WIRE.glob("*.py")} - {"__init__"} - needed)
    assert not idle, f"egress/wire/{idle[0]}.py: write egress/dissection/protocols/{idle[0]}.py, which follows it"


def test_every_protocol_reads_with_wire() -> None:
    """Parsers of bytes belong to egress.wire; the dissection only combines them."""
    own = [path.name for path in (DISSECTION / "protocols").glob("[a-z]*.py") if not used(path)]
    assert not own, f"egress/dissection/protocols/{own[0]}: put the parser into egress/wire/{own[0]}"


def test_every_application_has_its_protocol() -> None:
    """A rule for an application that no protocol identifies would never match."""
    found = Counter(protocol.app for protocol in load())
    missing = [app for app in App if app is not App.UNKNOWN and app not in found]
    assert not missing, f"write egress/dissection/protocols/{missing[0]}.py"
    assert set(found.values()) == {1}


def test_every_protocol_has_a_kind_and_occurs_somewhere() -> None:
    sorted_in = {*REGISTRY.datagrams, *(each for some in REGISTRY.ports.values() for each in some)}
    sorted_in |= {each for some in REGISTRY.streams.values() for each in some}
    sorted_in |= {each for some in REGISTRY.lines.values() for each in some}
    assert sorted_in == set(load())


@pytest.mark.parametrize("protocol", [each for each in load() if issubclass(each, StreamProtocol)])
def test_no_byte_identifies_nothing(protocol: type[StreamProtocol]) -> None:
    assert protocol.identify(b"", Place(Form.STREAM, Direction.OUT, TCP)) is None


def test_the_likelier_reader_of_a_form_is_asked_first() -> None:
    registry = Registry(reversed(load()))
    assert [each.app for each in registry.lines[Form.STREAM]] == [App.SSH, App.STRATUM]
    assert [each.app for each in registry.lines[Form.REQUEST]] == [App.STRATUM, App.SSH]
    assert [each.app for each in registry.lines[Form.ANSWER]] == [App.SSH]


def test_which_protocols_may_ask_for_another_server_later() -> None:
    assert REGISTRY.many_names == {App.HTTP, App.HTTP2}
    assert REGISTRY.reconnecting == {App.QUIC}
