"""HTTP in dissection: facts from requests, the content of bodies, and switches to another stream."""

from __future__ import annotations

import pytest

from egress.dissection.events import HttpAsked, Named
from egress.dissection.protocol import Form, Identified, Inner, Lost, Place, Rest, Step
from egress.dissection.protocols.http import Http
from egress.model import TCP, App, Direction

OUT, IN = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.STREAM, Direction.IN, TCP)
GET = b"GET /x HTTP/1.1\r\nHost: www.Example.org:8080\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
CONNECT = b"CONNECT pool.example.org:3333 HTTP/1.1\r\n\r\n"


def follow(data: bytes, place: Place = OUT, http: Http | None = None) -> list[Step]:
    assert Http.identify(data, place)
    return (http or Http()).follow(data, place).feed(data)


def test_a_request_states_the_server_it_is_for() -> None:
    identified, asked, named = follow(GET)
    assert identified == Identified(App.HTTP, "www.example.org")
    assert isinstance(asked, HttpAsked) and asked.request.target == "/x"
    assert named == Named("www.example.org", hidden=False)


def test_only_the_agent_names_a_server() -> None:
    assert [type(step) for step in follow(GET, IN)] == [Identified, HttpAsked]


def test_bodies_are_carried_each_as_a_stream_of_its_own() -> None:
    follower = Http().follow(POST, OUT)
    steps = [*follower.feed(POST + b"abc"), *follower.feed(b"def" + POST + b"ghi")]
    inner = [step for step in steps if isinstance(step, Inner)]
    assert [(step.form, step.data, step.begins) for step in inner] == [
        (Form.REQUEST, b"abc", True),
        (Form.REQUEST, b"def", False),
        (Form.REQUEST, b"ghi", True),
    ]


def test_the_chunks_of_a_segment_are_carried_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    steps = follow(head + b"1\na\n" * 1000 + b"0\n\n" + head + b"1\nb\n")
    inner = [step for step in steps if isinstance(step, Inner)]
    assert [(step.data, step.begins) for step in inner] == [(b"a" * 1000, True), (b"b", True)]


def test_an_answer_is_read_by_its_request_and_leaves_no_room_for_lines() -> None:
    http = Http()
    follow(b"HEAD / HTTP/1.1\r\n\r\n" + GET, http=http)
    answers = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    follower = http.follow(answers, IN)
    assert follower.feed(answers) == [Inner(Form.ANSWER, b"ok", begins=True)]
    assert follower.beside == frozenset()
    assert http.follow(GET, OUT).beside == frozenset((App.STRATUM,))


@pytest.mark.parametrize("begin", [CONNECT, b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", GET])
def test_where_http_ends_another_stream_begins(begin: bytes) -> None:
    assert follow(begin + b"\x16\x03\x01rest")[-1] == Rest(b"\x16\x03\x01rest")


def test_a_broken_message_hides_the_name_and_gives_its_bytes_back() -> None:
    broken = GET + b"GET / HTTP/1.1\nbad field\n\n"
    steps = follow(broken)
    assert steps[-2:] == [Named("", hidden=True), Lost(broken)]
    assert any(isinstance(step, HttpAsked) for step in steps)
