"""SSH in dissection: found at any line of a stream, but inside another protocol only at the very start."""

from __future__ import annotations

from egress.dissection.events import SshPacket, SshSpoken
from egress.dissection.protocol import Form, Identified, Place
from egress.dissection.protocols.ssh import Ssh
from egress.model import TCP, App, Direction

STREAM, BODY = Place(Form.STREAM, Direction.OUT, TCP), Place(Form.ANSWER, Direction.IN, TCP, (0,), App.HTTP)
NEWKEYS = b"\0\0\0\x0c\x0a\x15" + bytes(10)


def test_an_identification_at_any_line_is_reported_and_then_the_packets() -> None:
    reader = Ssh.reader(STREAM)
    facts = [fact for data in (b"220 welcome\r\nSSH-2.0-", b"Go\r\n", NEWKEYS) for fact in reader.feed(data, "")]
    assert facts[0] == Identified(App.SSH)
    assert [type(fact) for fact in facts[1:]] == [SshSpoken, SshPacket]
    assert reader.done and reader.opaque


def test_what_is_not_ssh_ends_the_reader_and_leaves_the_direction_open() -> None:
    reader = Ssh.reader(STREAM)
    assert reader.feed(b"a" * 20000, "") == []
    assert reader.done and not reader.opaque


def test_in_a_body_only_its_very_start_counts() -> None:
    reader = Ssh.reader(BODY)
    (alone,) = reader.feed(b"SSH-2.0-Go\r\n", App.HTTP)
    assert isinstance(alone, SshSpoken) and alone.alone
    known, spoken, packet = reader.feed(NEWKEYS, App.HTTP)
    assert known == Identified(App.SSH) and isinstance(packet, SshPacket) and reader.opaque
    assert spoken == SshSpoken(Direction.IN, alone.ident)
    reader = Ssh.reader(BODY)
    assert reader.feed(b"text\nSSH-2.0-Go\r\n", App.HTTP) == [] and reader.done
