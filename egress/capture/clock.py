"""Gives each frame of a capture the time at which it is judged, also where timestamps jump.

A frame may bear an impossible time (the clock was not set yet, a bit flipped), and files may have been appended in the
wrong order. The frames that follow tell the two apart: if most of them return to the time before, the frame is judged
at that time; if most go on from an earlier time, the clock begins anew there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from egress.capture.frame import Frame, TruncatedError

BACKWARDS = 60.0  # seconds; frames of several queues or interfaces are out of order by less
FORWARDS = 3600.0  # seconds; a longer pause has to be confirmed by the frames after it
LOOK = 16  # frames that are read ahead at a jump


class Moment(NamedTuple):
    """A frame and the time at which it is judged. `anew`: that time is before those of earlier frames."""

    frame: Frame
    ts: float
    anew: bool


def moments(frames: Iterable[Frame]) -> Iterator[Moment]:
    """Yield each frame with the time at which it is judged. The time goes back only at frames that are `anew`."""
    ahead = _Ahead(iter(frames))
    clock: float | None = None
    for frame in ahead:
        ts, anew = frame.ts, False
        if clock is None:
            clock = _first([ts, *ahead.look()])
        elif ts > clock + FORWARDS:
            clock = clock if _come_back(ts, ahead.look()) else ts
        elif ts < clock - BACKWARDS:
            anew = _go_on(ts, clock, ahead.look())
            clock = ts if anew else clock
        else:
            clock = max(clock, ts)
        yield Moment(frame, clock, anew)


def _first(times: list[float]) -> float:
    """Return the first of these times from which most later ones do not jump back; the first of all if none is so."""
    return next((ts for at, ts in enumerate(times) if not _come_back(ts, times[at + 1 :])), times[0])


def _come_back(ts: float, after: list[float]) -> bool:
    """Return True if most of the frames after a jump forwards are before it again."""
    return 2 * sum(each < ts - BACKWARDS for each in after) > len(after)


def _go_on(ts: float, clock: float, after: list[float]) -> bool:
    """Return True if most of the frames after a jump backwards go on from there."""
    return 2 * sum(ts - BACKWARDS <= each < clock - BACKWARDS for each in after) > len(after)


class _Ahead:
    """Iterates over the frames of a capture, and can read some ahead.

    Damage that is found ahead is raised once all frames before it have been yielded.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self._waiting: deque[Frame] = deque()
        self._damage: TruncatedError | None = None

    def __iter__(self) -> Iterator[Frame]:
        while self._waiting or self._read():
            yield self._waiting.popleft()
        if self._damage is not None:
            raise self._damage

    def look(self) -> list[float]:
        """Return the times of the next frames, at most LOOK of them."""
        while len(self._waiting) < LOOK and self._read():
            pass
        return [frame.ts for frame in self._waiting]

    def _read(self) -> bool:
        """Read one frame ahead; return False at the end of the file or at damage, which is kept for later."""
        if self._damage is not None:
            return False
        try:
            frame = next(self._frames, None)
        except TruncatedError as damage:
            self._damage = damage
            return False
        if frame is not None:
            self._waiting.append(frame)
        return frame is not None
