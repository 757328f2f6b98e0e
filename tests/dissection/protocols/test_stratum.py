"""Mining in dissection: lines of JSON, strict and lenient, and the protocol that carries them."""

from __future__ import annotations

import pytest

from egress.dissection.events import StratumSpoken
from egress.dissection.protocol import Carrier, Fact, Form, Identified, Place
from egress.dissection.protocols.stratum import Stratum
from egress.model import EVIDENCE_BYTES, TCP, App, Direction

STREAM, BODY = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.REQUEST, Direction.OUT, TCP, (0,), App.HTTP)
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":["cgminer/4.11",null,"pool.example.org","3333"]}\n'


def read(data: bytes, place: Place = STREAM, carrier: Carrier = "") -> list[Fact]:
    return Stratum.reader(place).feed(data, carrier)


@pytest.mark.parametrize("carrier, name", [("", "tcp"), (App.TLS, "tcp"), (App.HTTP, "http")])
def test_a_call_is_reported_with_its_carrier(carrier: Carrier, name: str) -> None:
    identified, spoken = read(b"junk\n" + SUBSCRIBE, carrier=carrier)
    assert identified == Identified(App.STRATUM, "pool.example.org:3333")
    assert isinstance(spoken, StratumSpoken)
    assert (spoken.carrier, spoken.text) == (name, SUBSCRIBE.strip())


def test_a_hint_alone_identifies_nothing() -> None:
    assert [type(fact) for fact in read(b'{"id":1,"method":"keepalived","params":{}}\n')] == [StratumSpoken]


def test_lenient_json_counts_on_a_connection_and_not_in_a_body() -> None:
    loose = SUBSCRIBE.replace(b'"', b"'")
    assert [type(fact) for fact in read(loose)] == [Identified, StratumSpoken]
    assert read(loose, BODY, App.HTTP) == []


def test_the_evidence_is_bounded() -> None:
    (spoken,) = (
        fact for fact in read(SUBSCRIBE[:-3] + b',"' + b"x" * 600 + b'"]}\n') if isinstance(fact, StratumSpoken)
    )
    assert len(spoken.text) == EVIDENCE_BYTES
