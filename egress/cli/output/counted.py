"""Makes lines of `egress doctor` from the counters of a worker that need an explanation, but count no failure."""

from __future__ import annotations

from typing import Any

from egress.gateway.supervisor.checks import Check


def explained(name: str, counters: dict[str, Any]) -> list[Check]:
    """Return a passed check for each of these counters that is not 0; its text says what to do.

    They count flows to allowed names at addresses that are not global, flows to cloud metadata addresses (both were
    refused), and connection attempts from which Multipath TCP was removed. `name` is the worker's, `counters` are the
    worker's from the gateway's status.
    """
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
