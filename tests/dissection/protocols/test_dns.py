"""DNS on one flow: answers that count, messages that cannot be read, and the bound on remembered questions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress.dissection.events import DnsAnswered, DnsAsked
from egress.dissection.protocol import Identified
from egress.dissection.protocols.dns import MAX_OPEN, Dns, Lookup
from egress.model import App, Direction
from tests.engine.resolver import framed, question, reply

OUT, IN = Direction.OUT, Direction.IN
NAME, HERE = "www.example.test", ("www.example.test", "192.0.2.1")


def names(lookup: Lookup, direction: Direction, *messages: bytes) -> list[str | None]:
    """The names in the facts about some messages; None stands for a message that cannot be read."""
    found = [event for message in messages for event in lookup.message(direction, message)]
    assert all(event.direction is direction for event in found)
    return [spoken(event) for event in found]


def spoken(event: DnsAsked | DnsAnswered) -> str | None:
    if isinstance(event, DnsAnswered):
        return event.answer.name
    return event.query.name if event.query else None


def test_an_answer_counts_with_the_id_name_and_type_of_a_question() -> None:
    lookup = Lookup()
    seen = [lookup.seen]
    assert names(lookup, IN, reply(NAME, HERE)) == []
    seen.append(lookup.seen)
    assert names(lookup, OUT, question(NAME)) == [NAME]
    assert [*seen, lookup.seen] == [False, False, True]
    assert names(lookup, IN, reply(NAME, HERE, ident=8), reply("x.test", HERE), reply(NAME, HERE, rtype=28)) == []
    assert names(lookup, IN, reply(NAME.upper(), HERE)) == [NAME]


def test_an_agent_cannot_answer_itself() -> None:
    lookup = Lookup()
    names(lookup, OUT, question(NAME))
    assert names(lookup, OUT, reply(NAME, HERE)) == [None]
    assert names(lookup, IN, question(NAME)) == []


def test_what_the_agent_sends_is_stated_even_if_it_cannot_be_read() -> None:
    lookup = Lookup()
    assert names(lookup, OUT, question(NAME) + b"x", b"", b"\0" * 12) == [None] * 3
    assert names(lookup, IN, b"", b"\0" * 12, reply(NAME, HERE) + b"x") == []
    assert not lookup.seen


def test_over_tcp_the_end_of_the_messages_is_stated_once() -> None:
    lookup = Lookup()
    sent = framed(question(NAME)) + b"\0\1"
    assert [spoken(event) for event in lookup.segment(OUT, sent)] == [None]
    assert list(lookup.segment(OUT, framed(question(NAME)))) == []
    assert list(lookup.segment(IN, b"\0\1")) == list(lookup.segment(IN, framed(reply(NAME, HERE)))) == []


def test_the_oldest_question_is_given_up() -> None:
    lookup = Lookup()
    for number in range(MAX_OPEN + 1):
        names(lookup, OUT, question(NAME, ident=number))
    assert names(lookup, IN, reply(NAME, HERE, ident=0)) == []
    assert names(lookup, IN, *(reply(NAME, HERE, ident=number) for number in (1, MAX_OPEN))) == [NAME] * 2


@given(st.lists(st.integers(1, 40), max_size=12))
def test_segmentation_over_tcp_does_not_matter(cuts: list[int]) -> None:
    lookup, found = Lookup(), []
    for direction, data in (
        (OUT, framed(question(NAME), b"unreadable 12", question("x.test"))),
        (IN, framed(reply(NAME, HERE), reply("y.test", HERE), reply("x.test"))),
    ):
        at = 0
        for cut in [*cuts, len(data)]:
            found += [spoken(event) for event in lookup.segment(direction, data[at : at + cut])]
            at += cut
    assert found == [NAME, None, "x.test", NAME, "x.test"]


@given(st.lists(st.tuples(st.sampled_from(Direction), st.binary(max_size=80)), max_size=20))
def test_random_bytes_state_only_that_they_were_sent(chunks: list[tuple[Direction, bytes]]) -> None:
    lookup = Lookup()
    for direction, data in chunks:
        for event in [*lookup.message(direction, data), *lookup.segment(direction, data)]:
            assert isinstance(event, DnsAsked)
            assert event.direction == direction == OUT


def test_a_flow_is_dns_from_the_first_query_that_can_be_read() -> None:
    dns = Dns()
    asked = [dns.asked]
    assert dns.datagram(OUT, b"unreadable") == [DnsAsked(OUT, None, b"unreadable")]
    asked.append(dns.asked)
    identified, event = dns.datagram(OUT, question(NAME))
    assert identified == Identified(App.DNS, NAME)
    assert isinstance(event, DnsAsked)
    assert [*asked, dns.asked] == [False, False, True]
    assert [type(fact) for fact in dns.datagram(IN, reply(NAME, HERE))] == [DnsAnswered]


def test_over_tcp_and_udp_the_same_is_stated() -> None:
    sent, answered = question(NAME), reply(NAME, HERE)
    tcp, udp = Dns(), Dns()
    assert tcp.segment(OUT, framed(sent)) == udp.datagram(OUT, sent)
    assert tcp.segment(IN, framed(answered)) == udp.datagram(IN, answered)
