"""The framing of mining over TCP: JSON objects and arrays, one after the other, or HTTP that carries them."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.dissection.framings.http import HttpFraming
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.jsonframing import JsonFraming


class StratumFraming(Framing):
    """Stratum and its dialects, getwork and getblocktemplate among them. The first bytes show which form it is."""

    def __init__(self) -> None:
        super().__init__()
        self._forms: list[Framing] = [_Texts(), HttpFraming()]

    def pick_up(self) -> None:
        self.blind[Direction.IN] = True

    def client(self, data: bytes) -> None:
        self._feed(Direction.OUT, data)

    def server(self, data: bytes) -> None:
        self._feed(Direction.IN, data)

    def _feed(self, direction: Direction, data: bytes) -> None:
        for form in tuple(self._forms):
            try:
                form.feed(direction, data)
            except MalformedError:
                if len(self._forms) == 1:
                    raise
                self._forms.remove(form)


class _Texts(Framing):
    def __init__(self) -> None:
        super().__init__()
        self._sides = JsonFraming(), JsonFraming()

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)
