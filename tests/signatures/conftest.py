"""A flow as a signature sees it, and the dissection that turns bytes into the events it listens to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from egress.dissection.events import Event, SshPacket, SshSpoken, StratumSpoken
from egress.engine.signature import Signature
from egress.model import EVIDENCE_BYTES, TCP, Direction, Finding, Rule
from egress.wire.jsonrpc import JsonStream
from egress.wire.ssh import SshIdent, SshStream
from egress.wire.stratum import classify


@dataclass
class Flow:
    """One TCP flow of the agent to 203.0.113.9:443, unless given otherwise."""

    agent: str = "a"
    proto: int = TCP
    local: bytes = bytes([10, 0, 0, 2])
    lport: int = 40000
    remote: bytes = bytes([203, 0, 113, 9])
    rport: int = 443
    outbound: bool = True
    picked_up: bool = False
    app: str = ""
    rule: Rule | None = None
    state: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def server_port(self) -> int:
        return self.rport if self.outbound else self.lport

    def scratch(self, signature: str) -> dict[str, object]:
        return self.state.setdefault(signature, {})


Says = Iterable[tuple[Direction, bytes]]


def talk(signature: Signature, says: Says, flow: Flow | None = None, size: int = 1 << 20) -> list[Finding]:
    """Let both sides say something, in segments of at most `size` bytes; return what the signature finds."""
    flow = flow or Flow()
    readers = {direction: (JsonStream(), SshStream()) for direction in Direction}
    findings = []
    for direction, data in says:
        for at in range(0, len(data), size):
            for event in _events(direction, *readers[direction], data[at : at + size]):
                finding = signature.see(event, flow) if type(event) in signature.listens else None
                if finding is not None:
                    findings.append(finding)
    return findings


def _events(direction: Direction, lines: JsonStream, ssh: SshStream, data: bytes) -> Iterable[Event]:
    for fact in ssh.feed(data):
        yield SshSpoken(direction, fact) if isinstance(fact, SshIdent) else SshPacket(direction, fact)
    for text in lines.feed(data):
        call = classify(text.value)
        if call is not None:
            yield StratumSpoken(direction, call, text.text[:EVIDENCE_BYTES], "tcp")


@pytest.fixture
def make_flow() -> Callable[..., Flow]:
    return Flow


@pytest.fixture
def hear() -> Callable[..., list[Finding]]:
    return talk
