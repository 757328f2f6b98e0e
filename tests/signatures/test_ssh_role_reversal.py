"""ssh.role-reversal: every proof by itself, every key exchange family, and the ordinary client."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.engine.signature import FlowView
from egress.model import Direction, Finding, Severity
from signatures.ssh_role_reversal import SshRoleReversal

Hear = Callable[..., list[Finding]]
MakeFlow = Callable[..., FlowView]
Says = list[tuple[Direction, bytes]]
OUT, IN = Direction.OUT, Direction.IN
IDENT = b"SSH-2.0-x\r\n"
DH, RSA, GSS, GEX = (
    "curve25519-sha256",
    "rsa2048-sha256",
    "gss-group14-sha256-x",
    "diffie-hellman-group-exchange-sha256",
)
SERVER_MARKS, CLIENT_MARKS = "ext-info-s,kex-strict-s-v00@openssh.com", "ext-info-c,kex-strict-c-v00@openssh.com"


def packet(payload: bytes) -> bytes:
    padding = 4 + -(5 + len(payload) + 4) % 8
    return (1 + len(payload) + padding).to_bytes(4) + bytes([padding]) + payload + bytes(padding)


def kexinit(kex: str) -> bytes:
    names = [kex.encode()] + [b"none"] * 7 + [b"", b""]
    return packet(b"\x14" + bytes(16) + b"".join(len(item).to_bytes(4) + item for item in names) + bytes(5))


def message(number: int) -> bytes:
    return packet(bytes([number]) + bytes(40))


def exchange(client: Direction, kex: tuple[str, str], numbers: list[tuple[str, int]]) -> Says:
    """Identifications, both KEXINITs (client's list, server's list), then messages by role."""
    server = Direction(1 - client)
    opening = [(OUT, IDENT), (IN, IDENT), (client, kexinit(kex[0])), (server, kexinit(kex[1]))]
    return opening + [(client if role == "c" else server, message(number)) for role, number in numbers]


EXCHANGES = {
    "dh": ((DH, DH), [("c", 30), ("s", 31)]),
    "gex": ((f"{GEX},{DH}", f"{DH},{GEX}"), [("c", 34), ("s", 31), ("c", 32), ("s", 33)]),
    "rsa": ((RSA, RSA), [("s", 30), ("c", 31), ("s", 32)]),
    "gss": ((GSS, GSS), [("c", 30), ("s", 31), ("s", 32)]),
    "gss hostkey": ((GSS, GSS), [("c", 30), ("s", 33), ("s", 34)]),
    "rsa second": ((f"{DH},{RSA}", f"{DH},{RSA}"), [("c", 30), ("s", 31)]),
    "rsa only common": ((f"{DH},{RSA}", RSA), [("s", 30), ("c", 31)]),
    "no lists": (("", ""), [("c", 30), ("s", 31)]),
    "marked": ((f"{DH},{CLIENT_MARKS}", f"{DH},{SERVER_MARKS}"), []),
    "marked ones only": ((f"{DH},ext-info-c", DH), []),
}


@pytest.mark.parametrize("size", [1, 1460])
@pytest.mark.parametrize(("kex", "numbers"), EXCHANGES.values(), ids=EXCHANGES)
def test_reversed(hear: Hear, kex: tuple[str, str], numbers: list[tuple[str, int]], size: int) -> None:
    findings = hear(SshRoleReversal(), exchange(IN, kex, numbers), size=size)
    assert findings
    finding = findings[0]
    assert (finding.signature, finding.severity, finding.technique) == ("ssh.role-reversal", Severity.CRITICAL, "T1572")
    assert finding.summary.startswith("The agent opened a connection to 203.0.113.9:443 and is the SSH server on it (")


@pytest.mark.parametrize("size", [1, 1460])
@pytest.mark.parametrize(("kex", "numbers"), EXCHANGES.values(), ids=EXCHANGES)
def test_the_ordinary_client(hear: Hear, kex: tuple[str, str], numbers: list[tuple[str, int]], size: int) -> None:
    assert hear(SshRoleReversal(), exchange(OUT, kex, numbers), size=size) == []


@pytest.mark.parametrize(
    "says",
    [
        [(OUT, IDENT + kexinit(f"{DH},kex-strict-s-v00@openssh.com"))],
        [(OUT, IDENT + kexinit(f"{DH},ext-info-s"))],
        [(IN, IDENT + kexinit(f"{DH},ext-info-c"))],
        [(OUT, IDENT + message(31))],
        [(OUT, IDENT + message(33))],
        [(IN, IDENT + message(30))],
        [(IN, IDENT + message(32))],
        [(IN, IDENT + message(34))],
    ],
)
def test_each_proof_by_itself(hear: Hear, says: Says) -> None:
    assert len(hear(SshRoleReversal(), says)) == 1


def test_a_list_that_claims_both_roles_proves_nothing_but_messages_do(hear: Hear) -> None:
    both = f"{DH},{SERVER_MARKS},{CLIENT_MARKS}"
    assert hear(SshRoleReversal(), exchange(OUT, (both, both), [("c", 30), ("s", 31)])) == []
    assert len(hear(SshRoleReversal(), exchange(IN, (both, both), [("c", 30), ("s", 31)]))) == 2


def test_numbers_that_fit_both_roles_prove_nothing(hear: Hear) -> None:
    """Each side prefers another family: 30 is the client's in one reading and the server's in the other."""
    mixed = (f"{RSA},{DH}", f"{DH},{RSA}")
    for client in (OUT, IN):
        assert hear(SshRoleReversal(), exchange(client, mixed, [("s", 30), ("c", 31)])) == []


@pytest.mark.parametrize(("direction", "number", "count"), [(OUT, 2, 1), (IN, 3, 1), (OUT, 3, 0), (IN, 2, 0)])
def test_ssh_1(hear: Hear, direction: Direction, number: int, count: int) -> None:
    body = bytes([number]) + bytes(40)
    length = len(body) + 4
    data = b"SSH-1.5-x\n" + length.to_bytes(4) + bytes(8 - length % 8) + body + bytes(4)
    assert len(hear(SshRoleReversal(), [(direction, data)])) == count


def test_ssh_2s_own_message_2_is_ignore(hear: Hear) -> None:
    assert hear(SshRoleReversal(), [(OUT, IDENT + message(2)), (IN, IDENT + message(3))]) == []


def test_who_opened_it(hear: Hear, make_flow: MakeFlow) -> None:
    says = [(OUT, IDENT + message(31))]
    for flow, count in (
        (make_flow(outbound=False), 0),  # an sshd of the agent that was called
        (make_flow(picked_up=True), 1),  # 40000 -> 443
        (make_flow(picked_up=True, lport=500, rport=22), 1),
        (make_flow(picked_up=True, lport=22, rport=40000), 0),
        (make_flow(picked_up=True, lport=40000, rport=50000), 0),
    ):
        assert len(hear(SshRoleReversal(), says, flow)) == count


@given(st.lists(st.tuples(st.sampled_from([OUT, IN]), st.sampled_from(
    [IDENT, kexinit(DH), kexinit(RSA), kexinit(f"{GSS},{DH}"), kexinit(""), kexinit("a" * 30000), kexinit("a," * 15000),
     kexinit(f"{DH},{SERVER_MARKS}"), message(20), message(30), message(31), message(34), b"\0\0\0\x0c", b"\n"]
)), max_size=10), st.integers(1, 200))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_exchange_in_any_segments(hear: Hear, make_flow: MakeFlow, says: Says, size: int) -> None:
    flow = make_flow()
    findings = hear(SshRoleReversal(), says, flow)
    assert findings == hear(SshRoleReversal(), says, size=size)
    kept = flow.scratch("ssh.role-reversal")
    assert len(repr(kept)) < 20_000
    assert all(len(finding.evidence) <= 512 and finding.summary.isprintable() for finding in findings)
