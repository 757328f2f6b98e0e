"""JSON framing: what starts a text, what ends it, what cannot hide it, and that no bytes break it."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.wire.jsonrpc import MAX_TEXT, JsonStream, JsonText, Members, every
from tests.examples import examples

CALL = b'{"id":1,"method":"mining.subscribe","params":["a"]}'

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
CONTAINERS = st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=5), VALUES, max_size=3)
# Bytes that mean something to the framing, so that random input reaches its corners.
HOSTILE = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\0", b" ", b":", b",", b'"method"', b'"login"'])
    | st.sampled_from([b"\\u006d", b"\xef\xbb\xbf", b"9" * 50, b"NaN", b'{"method":', CALL, b'{"a":1,"a":2}'])
    | st.binary(max_size=6),
    max_size=60,
).map(b"".join)  # fmt: skip


def whole(data: bytes) -> list[JsonText]:
    return JsonStream().feed(data)


def pieces(data: bytes, size: int) -> list[JsonText]:
    stream = JsonStream()
    return [text for at in range(0, len(data), size) for text in stream.feed(data[at : at + size])]


def methods(texts: list[JsonText]) -> list[object]:
    return [method for text in texts for method in every(text.value, "method")]


# --- where texts start and end ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a":1}', [{"a": 1}]),  # complete at the bracket, without a newline
        (b"[]", [[]]),
        (b'{"a":1}\n{"b":2}\r\n[3]', [{"a": 1}, {"b": 2}, [3]]),
        (b'{"a":1}{"b":2} [3]', [{"a": 1}, {"b": 2}, [3]]),
        (b'{"a":1}\0{"b":2}\0', [{"a": 1}, {"b": 2}]),
        (b'\xef\xbb\xbf \t\r\n\n  {"a":1}', [{"a": 1}]),
        (b'{"a":"}{][\\"","b":{"c":[{}]}}', [{"a": '}{]["', "b": {"c": [{}]}}]),
        (b'{\n  "a": [\n1,\n2]\n}\n', [{"a": [1, 2]}]),
        (b'{"a":\n [1]}', [[1], {"a": [1]}]),  # what starts a line counts, the rest of the open text as well
        (b'b":2},"id":1}\n{"a":1}', [{"a": 1}]),  # picked up in mid-message
        (b'HTTP/1.1 200 OK\nx: {"a":1}\n{"b":1}', [{"b": 1}]),  # an object inside another line is no message
        (b'{"a":1} rubbish {"b":1}\n{"c":1}', [{"a": 1}, {"c": 1}]),
        (b'{"a":"\n{"b":1}', [{"b": 1}]),  # no string may hold a raw newline
        (b'{"a":1', []),
        (b"", []),
    ],
)  # fmt: skip
def test_framing(data: bytes, expected: list[object]) -> None:
    assert [text.value for text in whole(data)] == expected
    assert [text.value for text in pieces(data, 1)] == expected


@given(st.lists(CONTAINERS, min_size=1, max_size=4), st.sampled_from([b"\n", b"\r\n", b"", b" ", b"\0"]), st.booleans())
def test_what_json_writes_is_read_back(values: list[object], between: bytes, ascii_only: bool) -> None:
    data = between.join(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace") for value in values)
    expected = [json.loads(json.dumps(value).encode()) for value in values]
    if ascii_only:
        assert [text.value for text in whole(data)] == expected
    assert len(whole(data)) == len(values)


def test_text_is_what_was_sent() -> None:
    sent = b'{ "id" : 1,\t"method":"x" }'
    assert whole(b"junk\n " + sent + b"\n")[0].text == sent


# --- hiding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [b"{\n", b"[\n", b'{"a":[[[\n', b"[{\n{\n", b"{" * 200 + b"\n"])
def test_an_open_bracket_does_not_swallow_the_lines_after_it(opening: bytes) -> None:
    assert "mining.subscribe" in methods(whole(opening + b" " + CALL + b"\n"))


def test_each_line_of_an_open_array_is_seen_once_and_the_array_when_it_closes() -> None:
    texts = whole(b"[\n" + CALL + b",\n" + CALL + b"\n]")
    assert [isinstance(text.value, list) for text in texts] == [False, False, True]


@pytest.mark.parametrize(
    "data",
    [
        b'{"\\u006det\\u0068od":"\\u006dining.subscribe"}',
        b'{"id":1,"method":"x","method":"mining.subscribe","method":"y"}',
        b'{"METHOD":"mining.subscribe"}',
        b'{"method":"mining.subscribe","n":' + b"9" * 6000 + b"}",
        b'{"method":"mining.subscribe","n":NaN,"m":-Infinity,"o":1e99999}',
        b'{"method":"mining.subscribe","n":"\xff\xfe\xc3"}',
        b'{"method":"mining.subscribe","n":"\\ud800"}',
        b'{"method":"mining.subscribe","tab":"\t"}',
        b'{"method":"mining.subscribe",}',  # not JSON, but lax parsers take it
        b'{"method":"mining.subscribe","n":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"method"' + b" " * 100_000 + b":" + b"\t" * 100_000 + b'"mining.subscribe"}',
        b'{"x":"' + b"a" * 200_000 + b'","method":"mining.subscribe"}',
        b'{"x":"' + b"\\u0061" * 30_000 + b'","method":"mining.subscribe"}',
        b'{"method":"mining.subscribe","x":"' + b'\\"' * 100_000 + b'"}',
        b'{"x":[' + b"1," * 100_000 + b'1],"method":"mining.subscribe"}',
        b'{"x":[' + b'"a",' * 60_000 + b'1],"m\\u0065thod"  : \n "\\u006dining.subscribe"}',
        b'{"method":"mining.subscribe","x":[' + b"1," * 100_000 + b"1]}",
        b'{"x":[' + b"1," * 60_000 + b"1\n" + CALL + b"\n",
    ],
    ids=range(18),
)
def test_a_method_cannot_be_hidden(data: bytes) -> None:
    assert "mining.subscribe" in methods(whole(data))
    assert repr(whole(data)) == repr(pieces(data, 997))  # repr: NaN is not equal to itself


@pytest.mark.parametrize("at", range(24))
def test_a_member_across_the_window_of_an_overlong_text(at: int) -> None:
    filler = b"1," * ((MAX_TEXT - 30) // 2) + b" " * at
    data = b'{"x":[' + filler + b"11" * (at // 2) + b'1],"method":"login","params":{"login":"w","pass":"x"}}'
    found = whole(data)[-1].value
    assert every(found, "method") == ["login"]
    assert every(every(found, "params")[0], "login") == ["w"]


def test_a_quoted_message_is_not_structure_in_an_overlong_text() -> None:
    quoted = json.dumps({"method": "mining.subscribe"})
    data = json.dumps({"x": [1] * 60_000, "text": quoted, "more": [quoted]}).encode()
    assert methods(whole(data)) == []


def test_repeated_keys_stay_visible() -> None:
    value = whole(b'{"method":"a","x":1,"Method":"b","method":"c"}')[0].value
    assert isinstance(value, Members)
    assert every(value, "method") == ["a", "b", "c"]
    assert value["method"] == "c"
    assert every(["method"], "method") == []


# --- bounds and fuzz --------------------------------------------------------------------------------------


@given(HOSTILE, st.integers(1, 9))
@settings(max_examples=examples(300))
def test_segmentation_changes_nothing(data: bytes, size: int) -> None:
    assert repr(pieces(data, size)) == repr(whole(data))


@pytest.mark.slow
@given(HOSTILE, st.integers(0, 2))
@settings(max_examples=examples(30), deadline=None)
def test_segmentation_changes_nothing_where_texts_are_overlong(data: bytes, where: int) -> None:
    filler = (b"1," * 40_000, b'"k":"v",' * 9_000, b'{"a":[' + b'"x",\n' * 15_000)[where]
    data = b"[" + filler + data + b'"method":"login"]}' + data
    assert repr(pieces(data, 777)) == repr(whole(data))


@given(st.binary(max_size=300) | HOSTILE)
def test_any_bytes_then_a_line_of_json(data: bytes) -> None:
    assert "mining.subscribe" in methods(whole(data + b"\n" + b'"\n' + CALL + b"\n"))


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'["', b'{"a":"\\', b" ", b"\0", b"\n{", b'"method":"m",'])
def test_memory_is_bounded(unit: bytes) -> None:
    stream = JsonStream()
    chunk = unit * (1460 // len(unit))
    tracemalloc.start()
    for _ in range(150):
        stream.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * MAX_TEXT  # a parsed text costs several times its length


def test_one_byte_at_a_time_costs_linear_time() -> None:
    def cost(elements: int) -> float:
        data = b'{"a":[' + b"[]," * elements + b"[]]}"
        began = time.process_time()
        assert len(pieces(data, 1)) == 1
        return time.process_time() - began

    # Four times the bytes: 4 if linear, 16 if quadratic.
    assert min(cost(16_000) for _ in range(3)) < 9 * min(cost(4_000) for _ in range(3))


def test_escaped_quotes_in_an_open_string_are_read_once() -> None:
    """A window that ends inside a string of escaped quotes took 0.7 s: each quote was tried as a beginning."""
    data = b"{" + (b'"' + b"a" * 8000 + b'",') * 7 + b'"' + b"a" * 1500 + b'","' + rb"\"" * 4090
    began = time.perf_counter()
    JsonStream().feed(data)
    assert time.perf_counter() - began < 0.3
