"""The framing of mining protocols over TCP: a sequence of JSON objects and arrays, or HTTP that carries them."""

from __future__ import annotations

from egress.dissection.framing import Framing
from egress.dissection.framings.http import HttpFraming
from egress.errors import MalformedError
from egress.model import Direction
from egress.wire.jsonframing import JsonFraming


class StratumFraming(Framing):
    """Checks Stratum and its dialects, with getwork and getblocktemplate over HTTP.

    Both forms, JSON alone and HTTP, are checked until one fails. It raises MalformedError once both have failed. It
    does not prove mining (`proves` is False): other protocols have these forms, too.
    """

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
        """Check bytes by each form that is left, and drop a form that fails. Raises MalformedError by the last."""
        for form in tuple(self._forms):
            try:
                form.feed(direction, data)
            except MalformedError:
                if len(self._forms) == 1:
                    raise
                self._forms.remove(form)


class _Texts(Framing):
    """Checks that both directions are sequences of JSON objects and arrays."""

    def __init__(self) -> None:
        super().__init__()
        self._sides = JsonFraming(), JsonFraming()

    def client(self, data: bytes) -> None:
        self._sides[Direction.OUT].feed(data)

    def server(self, data: bytes) -> None:
        self._sides[Direction.IN].feed(data)
