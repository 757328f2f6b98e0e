"""ssh.role-reversal: on a connection that the agent opened, the agent is the SSH server.

This is a shell or tunnel into the sandbox over an outbound connection (reverse_ssh, dropbear over a dialled socket);
there is no legitimate use. Each of these proves it, on any port, allowed or not; there is no threshold:

- the key exchange list marks the role: kex-strict-s or ext-info-s from the agent, kex-strict-c or ext-info-c from the
  other side (RFC 8308; OpenSSH's PROTOCOL, section 1.10), unless the same list claims both roles;
- a key exchange message that only the server sends comes from the agent, or one that only the client sends from the
  other side. What a number means depends on the method negotiated: RFC 4253 section 8, 5656, 4419 (Diffie-Hellman,
  elliptic curves, hybrids), 4432 (RSA: turned around), 4462 (GSS-API). So the method is the one they would have
  agreed on if the agent were the client (the client's order decides); a message that is then impossible is the proof;
- SSH-1: SSH_SMSG_PUBLIC_KEY (2) from the agent, SSH_CMSG_SESSION_KEY (3) from the other side.

On a flow picked up in mid-stream the opener is unknown; the agent counts as the opener if the other side has port 22,
or a privileged port while the agent's port is not. Evaded by: SSH inside TLS or other encryption, an implementation
that swaps the messages' numbers, unmarked lists of which one prefers RSA and the other not (each number then fits both
roles), and `ssh -R`, where the agent stays the client: ssh.unusual-port and the rules decide about that.
"""

from __future__ import annotations

from egress.dissection.events import Event, SshPacket
from egress.engine.signature import FlowView, Signature, endpoint
from egress.model import EVIDENCE_BYTES, Direction, Finding, Severity
from egress.wire.ssh import KexInit, SshMessage

MARKS = {"client": ("kex-strict-c", "ext-info-c"), "server": ("kex-strict-s", "ext-info-s")}
MAX_ALGORITHMS = 64  # kept of a key exchange list; OpenSSH offers about 12
# Method family: messages only the client sends, messages only the server sends.
ROLES = {
    "dh": {"client": frozenset((30, 32, 34)), "server": frozenset((31, 33))},
    "rsa": {"client": frozenset((31,)), "server": frozenset((30, 32))},
    "gss": {"client": frozenset((30, 40)), "server": frozenset((31, 32, 33, 34, 41))},
}
SSH1_ROLES = {"client": frozenset((3,)), "server": frozenset((2,))}
REVERSED = {Direction.OUT: "server", Direction.IN: "client"}


class SshRoleReversal(Signature):
    """Finds an agent that is the SSH server on a connection that it opened (see the module's docstring)."""

    id = "ssh.role-reversal"
    severity = Severity.CRITICAL
    technique = "T1572"  # Protocol Tunneling: an inbound channel inside an outbound connection
    listens = (SshPacket,)

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, SshPacket) or not _agent_opened(flow):
            return None
        message, role = event.message, REVERSED[event.direction]
        if message.kex is not None:
            flow.scratch(self.id)[event.direction.name] = tuple(name[:64] for name in message.kex.kex[:MAX_ALGORITHMS])
            proof = _marked(message.kex, role)
        else:
            proof = _number(message, role, flow.scratch(self.id))
        if not proof:
            return None
        side = "The agent" if event.direction is Direction.OUT else "The other side"
        summary = (
            f"The agent opened a connection to {endpoint(flow.remote, flow.rport)} and is the SSH server on it"
            f" ({side} sent {proof}): the other side gets a shell or tunnel into the sandbox."
        )
        evidence = ",".join(message.kex.kex) if message.kex else proof
        return Finding(self.id, self.severity, summary, evidence.encode()[:EVIDENCE_BYTES], self.technique)


def _agent_opened(flow: FlowView) -> bool:
    """Return True if the agent opened the connection, or, where that is not known, if its ports suggest it."""
    return flow.outbound and (not flow.picked_up or flow.rport == 22 or flow.rport < 1024 <= flow.lport)


def _marked(kex: KexInit, role: str) -> str:
    """Return the first name in a key exchange list that only `role` uses; "" if none, or if one is the other role's."""
    other = "server" if role == "client" else "client"
    if any(name.startswith(MARKS[other]) for name in kex.kex):
        return ""
    return next((name[:64] for name in kex.kex if name.startswith(MARKS[role])), "")


def _number(message: SshMessage, role: str, lists: dict[str, object]) -> str:
    """Write the message, for the summary, if its number is one that only `role` sends; "" otherwise."""
    if message.version == 1:
        return f"SSH-1 message {message.number}" if message.number in SSH1_ROLES[role] else ""
    numbers = ROLES[_family(lists)][role]
    return f"SSH message {message.number}" if message.number in numbers else ""


def _family(lists: dict[str, object]) -> str:
    """Return the family (in ROLES) of the key exchange that both sides agree on if the agent is the client.

    That is the agent's first method that the other side has, too.
    """
    own, other = _names(lists, Direction.OUT), _names(lists, Direction.IN)
    method = next((name for name in own if name in other), (own or other or ("",))[0])
    return "rsa" if method.startswith("rsa") else "gss" if method.startswith("gss-") else "dh"


def _names(lists: dict[str, object], direction: Direction) -> tuple[str, ...]:
    """Return the key exchange methods that a side offered, without the marks of roles; () if it sent no list."""
    names = lists.get(direction.name)
    marks = MARKS["client"] + MARKS["server"]
    return tuple(name for name in names if not name.startswith(marks)) if isinstance(names, tuple) else ()
