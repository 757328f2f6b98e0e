"""WebSocket inside HTTP: mining in its messages is found, however they are framed, masked, cut or compressed."""

from __future__ import annotations

import pytest

from egress.dissection.dissector import Dissector
from egress.dissection.events import SshSpoken, StratumSpoken
from egress.dissection.protocol import Inner
from egress.dissection.websocket import Messages
from egress.model import Direction
from egress.wire.deflate import RATIO, ROOM
from egress.wire.websocket import BINARY, CONTINUATION, PING, TEXT
from tests.dissection.conversations import CHANGED, GET, MASK, UPGRADE, Turn, frame_of
from tests.traffic import Talk, agent, engine
from tests.wire.test_deflate import compressed

OUT, IN = Direction.OUT, Direction.IN
LOGIN = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4x","pass":"x","agent":"XMRig/6.21"}}'
ASKED: list[Turn] = [(OUT, UPGRADE % b"websocket"), (IN, CHANGED % b"websocket")]


def stated(turns: list[Turn], size: int = 1 << 20) -> list[object]:
    dissector = Dissector(80)
    events: list[object] = []
    for direction, data in turns:
        for at in range(0, len(data), size):
            events += dissector.feed(direction, data[at : at + size])
    return events


def mined(turns: list[Turn], size: int = 1 << 20) -> list[str]:
    return [event.call.method for event in stated(turns, size) if isinstance(event, StratumSpoken)]


def pieces(payload: bytes, size: int, *, packed: bool = False) -> bytes:
    """A message in frames of `size` bytes, with a ping between them."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    first, *more = parts
    data = frame_of(TEXT, first, mask=MASK, fin=not more, compressed=packed)
    for left, part in zip(range(len(more) - 1, -1, -1), more, strict=True):
        data += frame_of(PING, b"", mask=MASK) + frame_of(CONTINUATION, part, mask=MASK, fin=not left)
    return data


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "sent",
    [
        frame_of(TEXT, LOGIN, mask=MASK),
        frame_of(BINARY, LOGIN, mask=MASK),
        frame_of(TEXT, b"hello", mask=MASK) + frame_of(TEXT, LOGIN, mask=MASK),
        pieces(LOGIN, 10),
        pieces(LOGIN, 1),
        pieces(compressed(LOGIN)[0], 1 << 20, packed=True),
        pieces(compressed(LOGIN)[0], 5, packed=True),
        b"".join(pieces(each, 9, packed=True) for each in compressed(b"hello", LOGIN)),
    ],
)
def test_mining_is_found_in_any_frames(sent: bytes, size: int) -> None:
    assert mined([*ASKED, (OUT, sent)], size) == ["login"]


def test_a_servers_messages_are_read_as_well() -> None:
    job = b'{"id":null,"method":"mining.notify","params":["a","' + b"0" * 64 + b'","0","0",[],"1","1","1",true]}'
    assert mined([*ASKED, (IN, frame_of(TEXT, job))]) == ["mining.notify"]


def test_ssh_inside_is_found() -> None:
    events = stated([*ASKED, (OUT, frame_of(BINARY, b"SSH-2.0-OpenSSH_9.9\r\n", mask=MASK))])
    assert any(isinstance(event, SshSpoken) for event in events)


def test_after_an_upgrade_that_is_declined_http_goes_on() -> None:
    declined = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    turns: list[Turn] = [(OUT, UPGRADE % b"websocket"), (IN, declined), (OUT, GET), (IN, declined), (OUT, LOGIN)]
    assert mined(turns) == ["login"]


def test_a_bomb_ends_the_reading_of_compressed_messages_only() -> None:
    (bomb,) = compressed(bytes(5_000_000))
    sent = frame_of(TEXT, bomb, mask=MASK, compressed=True) + frame_of(TEXT, LOGIN, mask=MASK)
    assert mined([*ASKED, (OUT, sent)]) == ["login"]


def test_thousands_of_tiny_frames_inflate_to_bounded_bytes() -> None:
    (bomb,) = compressed(bytes(20_000_000))
    sent = pieces(bomb[:6000], 4, packed=True)
    (content,) = Messages(client=True).feed(sent)
    assert isinstance(content, Inner) and len(content.data) <= ROOM + RATIO * len(sent)


def test_the_message_that_proves_it_does_not_leave() -> None:
    talk = Talk(dport=80).open()
    talk.client(UPGRADE % b"websocket").server(CHANGED % b"websocket").client(frame_of(TEXT, LOGIN, mask=MASK))
    played = talk.play(engine(), agent())
    assert played.signatures == ["mining.stratum"]
    assert played.passed(talk.steps) == UPGRADE % b"websocket"
