"""Explains a worker's counters that are no failure but may surprise: each is a line of `egress doctor`."""

from __future__ import annotations

from typing import Any

from egress.gateway.supervisor.checks import Check


def explained(name: str, counters: dict[str, Any]) -> list[Check]:
    """Return the lines on refusals for the kind of an address, with their remedy, and on Multipath TCP."""
    engine, found = counters.get("engine", {}), []
    if engine.get("private"):
        text = f"{engine['private']} flows to allowed names were refused, as their addresses are not global: if"
        text += " these are right, set private: true in the rule (egress query reason:private names it)"
        found.append(Check(f"{name} names", True, text))
    if engine.get("metadata"):
        text = f"{engine['metadata']} flows to addresses at which clouds serve metadata were refused (egress query"
        found.append(Check(f"{name} metadata", True, f"{text} reason:metadata); only a rule for the address allows it"))
    if counters.get("multipath"):
        text = f"Multipath TCP was removed from {counters['multipath']} connection attempts: they use one path"
        found.append(Check(f"{name} mptcp", True, text))
    return found
