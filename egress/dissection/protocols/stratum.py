"""Mining over JSON: one message per line on a connection of its own, or in the body of an HTTP request."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from egress.dissection.events import StratumSpoken
from egress.dissection.framings.stratum import StratumFraming
from egress.dissection.protocol import Carrier, Fact, Form, Identified, LineProtocol, Place, Reader
from egress.model import EVIDENCE_BYTES, TCP, App
from egress.wire.jsonrpc import JsonStream, JsonText
from egress.wire.loosejson import LooseLines
from egress.wire.stratum import classify

SHORTEST = 20  # bytes of a JSON text; `{"method":"getwork"}`, the shortest that states anything, has 20


class Stratum(LineProtocol):
    """Mining over JSON, in streams and request bodies (getwork, getblocktemplate), but not in the bodies of answers."""

    app = App.STRATUM
    framings = MappingProxyType({TCP: StratumFraming})
    forms = (Form.REQUEST, Form.STREAM)

    @staticmethod
    def reader(place: Place) -> Reader:
        return _Messages(place)


class _Messages(Reader):
    """Reads mining messages in one direction: JSON texts, and in streams lines that only lenient readers accept."""

    app = App.STRATUM

    def __init__(self, place: Place) -> None:
        self._direction = place.direction
        self._strict = JsonStream(SHORTEST)
        self._loose = LooseLines(SHORTEST) if place.form is Form.STREAM else None

    def feed(self, data: bytes, carrier: Carrier) -> list[Fact]:
        texts = self._strict.feed(data)
        if self._loose is not None:
            texts += self._loose.feed(data)
        return self._stated(texts, carrier) if texts else []

    def _stated(self, texts: Iterable[JsonText], carrier: Carrier) -> list[Fact]:
        """Return the facts in JSON texts: only a message that proves mining identifies the flow."""
        facts: list[Fact] = []
        for value, text in texts:
            call = classify(value)
            if call is None:
                continue
            if call.proof:
                facts.append(Identified(App.STRATUM, call.pool))
            by = "http" if carrier is App.HTTP else "tcp"
            facts.append(StratumSpoken(self._direction, call, text[:EVIDENCE_BYTES], by))
        return facts
