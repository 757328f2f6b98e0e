"""Lines over pipes: in any pieces, and with a reader that does not read."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import EgressError
from egress.gateway.pipe import lines
from egress.gateway.pipe.lines import LineReader, LineWriter


def ended(reader: LineReader) -> bool:
    """Read the attribute anew each time: mypy believes it keeps the value that an assertion found."""
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


def test_a_long_line_takes_time_in_proportion() -> None:
    """A line eight times as long takes about eight times the time, and not 64; the machine may be busy."""

    def seconds(size: int) -> float:
        read, write = os.pipe()
        reader, line, left = LineReader(read), memoryview(b"x" * size + b"\n"), size + 1
        began, found = time.process_time(), []
        while left:
            left -= os.write(write, line[len(line) - left :][:65536])
            found += reader.read()
        spent = time.process_time() - began
        os.close(read)
        os.close(write)
        assert found == [line[:-1]]
        return spent

    size = lines.MAX_LINE // 8
    assert min(seconds(8 * size - 1) for _ in range(3)) < 24 * min(seconds(size) for _ in range(3))


def test_the_first_line_leaves_the_others_to_be_read() -> None:
    read, write = os.pipe()
    reader = LineReader(read)
    os.write(write, b"one\ntwo\nthree\nfo")
    assert reader.first() == b"one"
    assert reader.read() == [b"two", b"three"]
    os.write(write, b"ur\n")
    os.close(write)
    assert reader.first() == b"four"
    assert reader.first() == b""
    assert ended(reader)
    os.close(read)


def test_a_writer_that_nobody_reads_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FULL", 1000)
    read, write = os.pipe()
    writer = LineWriter(write)
    sizes = [writer.full]
    writer.write(b"x" * 70_000)
    sizes.append(writer.full)
    while not idle(writer):
        os.read(read, 65536)
        writer.flush()
    assert [*sizes, writer.full] == [False, True, False]
    os.close(read)
    os.close(write)
