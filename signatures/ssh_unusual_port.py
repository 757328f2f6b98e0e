"""ssh.unusual-port: an SSH identification, in either direction, where no rule expects SSH.

SSH is expected on port 22 and on flows admitted by a rule for SSH (`app: ssh`). One identification line is enough (RFC
4253 section 4.2); there is no threshold. Inside an HTTP body it needs a key exchange behind it, or bodies of both
directions that begin so: one alone may be a text, such as a scan's banner. Suricata's similar rule (ET 2001984) waits
for two and is off by default, because it is too noisy on open networks; in a sandbox whose permitted SSH is written
down it is not.

On a flow picked up in mid-stream it is unknown which port is the server's, so port 22 on either side is expected.

Evaded by: SSH on port 22 (rules decide there), SSH inside TLS or any other encryption, and by a
client and server that identify themselves differently, or after more than 64 lines or 16 KiB of other text.
"""

from __future__ import annotations

from egress.dissection.events import Event, SshSpoken
from egress.engine.signature import FlowView, Signature, endpoint, printable
from egress.model import EVIDENCE_BYTES, App, Direction, Finding, Severity

SSH_PORT = 22  # IANA; RFC 4253 section 4.1


class SshUnusualPort(Signature):
    """Finds an SSH identification where no rule expects SSH (see the module's docstring)."""

    id = "ssh.unusual-port"
    severity = Severity.HIGH
    technique = "T1571"  # Non-Standard Port
    listens = (SshSpoken,)
    patterns = (rb"SSH-[12]\.[0-9]{1,2}-",)  # looked for in flows that have settled

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, SshSpoken) or flow.server_port == SSH_PORT:
            return None
        if (flow.rule is not None and flow.rule.app == App.SSH) or (flow.picked_up and flow.lport == SSH_PORT):
            return None
        if event.alone and not _both(event.direction, flow.scratch(self.id)):
            return None
        ident, remote = event.ident, endpoint(flow.remote, flow.rport)
        line = printable(ident.line, 80)
        if event.direction is Direction.OUT:
            act = f"The agent identified itself as SSH ({line}) to {remote}"
        else:
            act = f"{remote} identified itself to the agent as SSH ({line})"
        hidden = f" after {ident.line_number - 1} other lines" if ident.line_number > 1 else ""
        opener = "" if flow.outbound else f" on the agent's own port {flow.lport}"
        summary = (
            f"{act}{hidden}{opener}, where no rule allows SSH: an encrypted way out that can carry shells, files and"
            " reverse tunnels unseen."
        )
        return Finding(self.id, self.severity, summary, ident.line[:EVIDENCE_BYTES], self.technique)


def _both(direction: Direction, heard: dict[str, object]) -> bool:
    """Note an identification that stands alone; return True once both directions have sent one."""
    heard[direction.name] = True
    return len(heard) == len(Direction)
