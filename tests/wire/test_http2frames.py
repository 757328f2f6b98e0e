"""Frame headers of HTTP/2: both sides in any segmentation, frames that neither sends, any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.errors import MalformedError
from egress.wire.http2 import PREFACE
from egress.wire.http2frames import Frames
from tests.dissection.conversations import H2, H2_ANSWER
from tests.wire.test_http2 import frame

SETTINGS = frame(4)


def fed(data: bytes, size: int = 1 << 20, *, client: bool = True) -> Frames:
    frames = Frames(client=client)
    for at in range(0, len(data), size):
        frames.feed(data[at : at + size])
    return frames


@pytest.mark.parametrize("size", [1, 4, 9, 1 << 20])
def test_both_sides_in_any_segmentation(size: int) -> None:
    assert fed(H2, size).begun and fed(H2_ANSWER, size, client=False).begun


@pytest.mark.parametrize(
    "sent",
    [
        frame(1, b"\x88", 4, 1),  # before SETTINGS
        frame(4, b"", 1),
        SETTINGS + frame(4, bytes(5)),
        SETTINGS + frame(4, bytes(6), 1),
        SETTINGS + frame(4, b"", 0, 3),
        SETTINGS + frame(0, b"x"),
        SETTINGS + frame(6, bytes(7)),
        SETTINGS + frame(8, bytes(3)),
        SETTINGS + frame(0, b"x", 0, 1 << 31),
        SETTINGS + frame(5, b"x", 0, 1),
    ],
)
def test_frames_that_no_client_sends(sent: bytes) -> None:
    for size in (1, 1 << 20):
        with pytest.raises(MalformedError):
            fed(PREFACE + sent, size)


def test_from_a_later_frame_on() -> None:
    frames = Frames(client=True)
    frames.pick_up()
    frames.feed(frame(6, bytes(8)))


@given(st.binary(max_size=200), st.integers(1, 40))
def test_any_bytes_at_all(data: bytes, size: int) -> None:
    with suppress(MalformedError):
        fed(PREFACE + SETTINGS + data, size)
