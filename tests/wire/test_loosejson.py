"""Lines that json-c accepts beyond RFC 8259 are read whole; strict ones are left to the strict reader."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.loosejson import MAX_LINE, LooseLines

CALL = {"method": "login", "params": {"login": 'it\'s "me"'}}


def values(data: bytes, size: int = 10**6) -> list[object]:
    reader = LooseLines()
    return [text.value for at in range(0, len(data), size) for text in reader.feed(data[at : at + size])]


@pytest.mark.parametrize("size", [10**6, 1])
@pytest.mark.parametrize(
    "line",
    [
        rb"""{'method':'login','params':{'login':'it\'s "me"'}}""",
        rb"""{'method':'login','params':{'login':'it\'s \"me\"'}}""",
        rb"""{/*}*/"method"/**/:/**/"login","params":{"login":"it's \"me\""}}""",
        rb"""  /*{*/ {"method":'login',"params":{'login':"it's \"me\""}} // and so on }""",
    ],
)
def test_quotes_and_comments(line: bytes, size: int) -> None:
    assert values(line + b"\n", size) == [CALL]
    assert values(line, size) == []  # its reader waits for the end of the line


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":"it\'s"}',
        b'{"a":"/* no comment */"}',
        b'{"a":1}',
        b"it's /* text */ {'a':1}",
        b"",
        b"{'" + b"a" * MAX_LINE,
    ],
)
def test_strict_lines_text_and_overlong_lines_are_left_out(line: bytes) -> None:
    assert values(line + b"\n{'a':1}\n") == [{"a": 1}]


def test_time_is_linear_in_comments_and_quotes_that_never_end() -> None:
    began = time.perf_counter()
    for piece in (b"/*a", b"'", b'"', b"'/*", b"\\'", b'"\\'):
        values(b"{'" + piece * (MAX_LINE // len(piece) - 2) + b"\n")
    assert time.perf_counter() - began < 1.0  # quadratic: many seconds


def test_short_lines_are_left_out() -> None:
    reader = LooseLines(7)
    assert [text.text for text in reader.feed(b"//\n{'a':1}\n{'a':}\n\n{'\n//{'\n[''   ]\n")] == [
        b"{'a':1}",
        b"[''   ]",
    ]


@pytest.mark.parametrize("line", [b"//\n", b"{'\n", b"/**/\n"])
def test_short_lines_are_not_read_as_texts(line: bytes) -> None:
    def cost(shortest: int) -> float:
        reader, data = LooseLines(shortest), line * 4_000
        began = time.process_time()
        reader.feed(data)
        return time.process_time() - began

    most = min(cost(0) for _ in range(3)) / 3
    assert any(cost(20) < most for _ in range(5))  # a disturbed measurement is made again


@given(
    st.lists(st.sampled_from([b"{", b"}", b"'", b'"', b"\\", b"/*", b"*/", b"//", b"\n", b"a", b":", b"\xff"])).map(
        b"".join
    )
)
def test_nothing_raises_and_segmentation_changes_nothing(data: bytes) -> None:
    assert repr(values(data)) == repr(values(data, 1))
