"""ssh.unusual-port: which ports are usual, either side, split and late identifications."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.engine.engine import Engine
from egress.engine.signature import FlowView
from egress.limits import Limits
from egress.model import Action, Direction, Finding, Policy, Rule, Severity
from signatures.ssh_unusual_port import SshUnusualPort
from tests.traffic import Talk, agent

Hear = Callable[..., list[Finding]]
MakeFlow = Callable[..., FlowView]
OUT, IN = Direction.OUT, Direction.IN
IDENT = b"SSH-2.0-OpenSSH_9.7\r\n"


@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize("size", [1, 3, 1460])
@pytest.mark.parametrize("before", [b"", b"hello\r\n", b"\n\n\n"])
def test_one_identification_is_enough(hear: Hear, direction: Direction, size: int, before: bytes) -> None:
    (finding,) = hear(SshUnusualPort(), [(direction, before + IDENT)], size=size)
    assert (finding.signature, finding.severity, finding.technique) == ("ssh.unusual-port", Severity.HIGH, "T1571")
    assert finding.evidence.startswith(b"SSH-2.0-") and "203.0.113.9:443" in finding.summary


@pytest.mark.parametrize(
    "line", [b"SSH-1.5-1.2.27\n", b"SSH-1.99-Cisco-1.25\n", b"SSH- 2.00-x\n", b"SSH-chisel-v3-client\n"]
)
def test_other_versions(hear: Hear, line: bytes) -> None:
    assert len(hear(SshUnusualPort(), [(OUT, line)])) == 1


def test_the_sentence(hear: Hear, make_flow: MakeFlow) -> None:
    why = "an encrypted way out that can carry shells, files and reverse tunnels unseen."
    (finding,) = hear(SshUnusualPort(), [(OUT, IDENT)])
    assert finding.summary == (
        f"The agent identified itself as SSH (SSH-2.0-OpenSSH_9.7) to 203.0.113.9:443, where no rule allows SSH: {why}"
    )
    (finding,) = hear(SshUnusualPort(), [(IN, b"a\nb\n" + IDENT)])
    assert finding.summary == (
        "203.0.113.9:443 identified itself to the agent as SSH (SSH-2.0-OpenSSH_9.7) after 2 other lines, where no rule"
        f" allows SSH: {why}"
    )
    (finding,) = hear(SshUnusualPort(), [(OUT, IDENT)], make_flow(outbound=False, lport=2222, rport=50000))
    assert "on the agent's own port 2222" in finding.summary


def test_what_is_expected(hear: Hear, make_flow: MakeFlow) -> None:
    both = [(OUT, IDENT), (IN, IDENT)]
    allowed = Rule("r1", Action.ACCEPT, app="ssh")
    for flow in (
        make_flow(rport=22),
        make_flow(rport=22, picked_up=True),
        make_flow(lport=22, rport=50000, outbound=False),
        make_flow(lport=22, rport=50000, picked_up=True),  # an sshd of the agent, seen from the middle
        make_flow(rport=443, rule=allowed),
    ):
        assert hear(SshUnusualPort(), both, flow) == []


def test_what_is_not_expected(hear: Hear, make_flow: MakeFlow) -> None:
    for flow in (
        make_flow(rule=Rule("r1", Action.ACCEPT)),
        make_flow(rule=Rule("r1", Action.ACCEPT, app="tls")),
        make_flow(lport=22),  # the client's port says nothing
        make_flow(rport=22, lport=8022, outbound=False),
    ):
        assert len(hear(SshUnusualPort(), [(OUT, IDENT)], flow)) == 1


POST = b"POST /t HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def through_the_engine(*says: tuple[Direction, bytes]) -> int:
    """Play an HTTP conversation through an engine; return the number of findings."""
    talk = Talk(dport=80).open()
    for direction, data in says:
        talk.client(data) if direction is OUT else talk.server(data)
    return len(talk.play(Engine(Limits(), Policy(), [SshUnusualPort()]), agent()).findings)


def test_a_banner_as_the_text_of_one_http_message_is_no_ssh() -> None:
    assert through_the_engine((OUT, POST % len(IDENT) + IDENT), (IN, OK % 2 + b"ok")) == 0
    assert through_the_engine((OUT, POST % 0), (IN, OK % len(IDENT) + IDENT)) == 0


def test_a_tunnel_in_the_bodies_of_http_messages_is_found() -> None:
    first = [(OUT, POST % 0), (IN, OK % len(IDENT) + IDENT)]
    assert through_the_engine(*first, (OUT, POST % len(IDENT) + IDENT), (IN, OK % 0)) == 1
    newkeys = b"\0\0\0\x0c\x0a\x15" + bytes(10)
    assert through_the_engine((OUT, POST % 37 + IDENT), (OUT, newkeys)) == 1


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"see SSH-2.0-x\n", b"{}\n", b"SSH-2.0"])
def test_what_is_not_ssh(hear: Hear, data: bytes) -> None:
    assert hear(SshUnusualPort(), [(OUT, data), (IN, data)]) == []


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_wire_cannot_write_the_sentence(hear: Hear, software: bytes) -> None:
    (finding,) = hear(SshUnusualPort(), [(IN, b"SSH-2.0-" + software)])
    assert all(" " <= char <= "~" or char == "…" for char in finding.summary) and len(finding.summary) < 400
