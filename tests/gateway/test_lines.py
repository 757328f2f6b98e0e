"""Lines over pipes: in any pieces, and with a reader that does not read."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Config, Limits
from egress.errors import EgressError
from egress.gateway import lines
from egress.gateway.lines import LineReader, LineWriter
from egress.gateway.messages import Setup, Watched, encode, setup_from
from egress.model import Action, Agent, Mode, Policy, Rule


def ended(reader: LineReader) -> bool:
    """Asked anew each time: mypy believes an attribute stays what an assertion found."""
    return reader.ended


def idle(writer: LineWriter) -> bool:
    return writer.idle


@given(st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")), max_size=8), st.data())
def test_any_cut_gives_the_same_lines(wanted: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in wanted)
    read, write = os.pipe()
    os.set_blocking(read, False)
    reader, found = LineReader(read), []
    try:
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            os.write(write, stream[:size])
            stream = stream[size:]
            found += reader.read()
        assert found == wanted
        assert reader.read() == []
        assert not ended(reader)
    finally:
        os.close(write)
    assert reader.read() == []
    assert ended(reader)
    os.close(read)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    read, write = os.pipe()
    os.write(write, b"x" * 101)
    with pytest.raises(EgressError, match="longer than"):
        LineReader(read).read()
    os.close(read)
    os.close(write)


def test_a_reader_that_sleeps_blocks_nobody_and_misses_nothing() -> None:
    read, write = os.pipe()
    writer = LineWriter(write)
    line = b"x" * 70_000 + b"\n"
    writer.write(line)
    writer.write(line)
    assert not idle(writer)
    got = b""
    while len(got) < 2 * len(line):
        got += os.read(read, 65536)
        writer.flush()
    assert got == line * 2
    assert idle(writer)
    os.close(read)
    os.close(write)


def test_a_setup_comes_back_equal() -> None:
    agent = Agent("a", ("10.0.0.0/8", "::/0"), Mode.MONITOR, Action.ACCEPT, ("x",))
    rule = Rule("r1", Action.ACCEPT, "a*", "10.0.0.0/8", "tcp", ((22, 22), (80, 90)), "ssh", ("ssh.*",), comment="why")
    config = Config(limits=Limits(max_flows=7), fail_open=True)
    setup = Setup(config, 1, 77, (Watched(agent, 5),), Policy(3, (rule,)), "/tmp")
    assert setup_from(encode(setup)) == setup
