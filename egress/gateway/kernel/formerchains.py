"""Remove the iptables chains of earlier versions of egress, which had no nftables table.

Such a gateway leaves its chains when it is killed, or stops with `on_stop: block`. They are removed once the table is
in place, so that agents are never unguarded.
"""

from __future__ import annotations

import re
import shutil

from egress.gateway.kernel.command import run

_JUMP = re.compile(r"-A (?P<chain>\S+) (?P<rule>.*-[jg] EGRESS-\S+)$")
_OURS = "EGRESS-"


def remove() -> None:
    """Delete chains named EGRESS-… and the jumps to them; no effect without any. Raises EgressError."""
    for tool in ("iptables", "ip6tables"):
        if shutil.which(f"{tool}-save") is None:
            continue
        if text := change(run(f"{tool}-save")):
            run(f"{tool}-restore", "--noflush", "-w", stdin=text)


def change(saved: str) -> str:
    """Make the input for `iptables-restore --noflush` that deletes our chains and the jumps to them.

    `saved`: the output of iptables-save. Returns an empty text if it has no chains of ours.
    """
    tables: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line[1:], [])
        lines.append(line)
    found: list[str] = []
    for name, lines in tables.items():
        chains = [line[1:].split()[0] for line in lines if line.startswith(f":{_OURS}")]
        if chains:
            jumps = [match for line in lines if (match := _JUMP.match(line)) and not match["chain"].startswith(_OURS)]
            deleted = [f"-D {match['chain']} {match['rule']}" for match in jumps]
            found += [f"*{name}", *deleted, *(f"-F {chain}" for chain in chains), *(f"-X {chain}" for chain in chains)]
            found.append("COMMIT")
    return "".join(f"{line}\n" for line in found)
