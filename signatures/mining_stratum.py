"""mining.stratum: the agent uses a mining protocol with a pool, or acts as the pool.

A finding takes either one message that proves mining by itself (`StratumCall.proof`), or two hints, one that
only a miner sends in one direction and one that only a pool sends in the other. There is no threshold and no port:
real pools sit on 25, 80, 443 and 5222 as well as on 3333. Hints need two sides because JSON-RPC with a method `login`
is common outside mining, and detectors that took it alone (zeek-cryptomining, ET 2022886) are known for it.

Sources: xmrig's doc/STRATUM.md, BIP 22, 23 and 310, ZIP-301, EIP-1571, EthereumStratum/1.0.0; see egress.wire.stratum.

Evaded by: TLS, SSH or any encryption around it (a pool's name in the hello is all that is left), Stratum V2, a
protocol of the miner's own between it and a proxy outside, text protocols (Duino-Coin),
a login that names no wallet, miner or algorithm to a pool that answers in a shape of its own.
Falsely found: a program that calls getwork, getblocktemplate or eth_getWork of a node without mining; exempt it.
"""

from __future__ import annotations

import re

from egress.dissection.events import Event, StratumSpoken
from egress.engine.signature import FlowView, Signature, endpoint, printable
from egress.model import EVIDENCE_BYTES, Direction, Finding, Severity

DIALECTS = {
    "stratum-v1": "Stratum",
    "cryptonote": "Cryptonote",
    "beam": "Beam",
    "ethproxy": "EthProxy",
    "ethereum-stratum": "EthereumStratum",
    "zcash": "Zcash Stratum",
    "getwork": "getwork",
}
LOGINS = frozenset(("login", "auth", "mining.authorize", "eth_submitLogin", "mining.hello"))
SHARES = frozenset(("submit", "mining.submit", "eth_submitWork", "submitblock", "submit_block", "solution"))
WHY = {
    "client": "it is using the sandbox's compute to mine cryptocurrency",
    "server": "it is running a mining pool or proxy for others",
}


def _spelled(word: str) -> bytes:
    r"""Make a pattern for a JSON string that begins with `word`, each character as it is or escaped as \u00XX."""
    return b'"' + b"".join(rb"(%b|\\u00(?i:%02x))" % (re.escape(char.encode()), ord(char)) for char in word)


class MiningStratum(Signature):
    """Finds mining messages of either side, on any port (see the module's docstring)."""

    id = "mining.stratum"
    severity = Severity.CRITICAL
    technique = "T1496.001"  # Resource Hijacking: Compute Hijacking
    listens = (StratumSpoken,)
    # Searched for in settled flows.
    patterns = tuple(_spelled(word) for word in ("mining.", "eth_getWork", "eth_submit", "login", "job_id"))

    def see(self, event: Event, flow: FlowView) -> Finding | None:
        if not isinstance(event, StratumSpoken):
            return None
        if not event.call.proof:
            hints = flow.scratch(self.id)  # at most one entry per direction and side
            hints[f"{event.direction}{event.call.side}"] = True
            other = "server" if event.call.side == "client" else "client"
            if f"{Direction(1 - event.direction)}{other}" not in hints:
                return None
        summary = _summary(event, endpoint(flow.remote, flow.rport))
        return Finding(self.id, self.severity, summary, event.text[:EVIDENCE_BYTES], self.technique)


def _summary(event: StratumSpoken, remote: str) -> str:
    """Write the summary: the act, the worker, the dialect and method, and the reason why it matters."""
    call = event.call
    details = [f"{DIALECTS.get(call.dialect, call.dialect)} {printable(call.method, 32)}"]
    if event.carrier == "http":
        details.append("inside HTTP")
    if call.agent:
        details.append(f"miner {printable(call.agent.split(' ')[0], 32)}")
    if call.pool:
        details.append(f"pool named {printable(call.pool)}")
    worker = f" as {printable(call.worker, 12)}" if call.worker else ""
    role = call.side if event.direction is Direction.OUT else ("server" if call.side == "client" else "client")
    return f"{_act(event, remote)}{worker} ({', '.join(details)}): {WHY[role]}."


def _act(event: StratumSpoken, remote: str) -> str:
    """Write the beginning of the summary: sender, act and receiver."""
    call = event.call
    if call.side == "server":
        if event.direction is Direction.OUT:
            return f"The agent answered a miner at {remote} as a pool does"
        return f"A mining pool at {remote} answered the agent or sent it work"
    sender, pool = "The agent", f"a mining pool at {remote}"
    if event.direction is Direction.IN:
        sender, pool = f"A miner at {remote}", "the agent"
    if call.method in LOGINS:
        return f"{sender} logged in to {pool}"
    if call.method in SHARES:
        return f"{sender} submitted a mining share to {pool}"
    return f"{sender} used a mining protocol with {pool}"
