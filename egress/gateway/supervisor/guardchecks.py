"""Checks of the guard in the kernel: ways around it."""

from __future__ import annotations

from typing import Any

from egress.gateway.supervisor.checks import Check


def ways(agent: dict[str, Any]) -> list[Check]:
    """Check that an agent has one way to the network: the interface that it is attached by."""
    name, found = f"agent {agent['name']}", []
    if others := agent.get("others"):
        text = f"has further interfaces ({', '.join(others)}): guarded, but its addresses there are refused as spoofed"
        found.append(
            Check(name, False, f"{text}; disconnect them, or detach and add the agent with all of its networks")
        )
    if outside := agent.get("outside"):
        text = f"UNGUARDED: its interfaces {', '.join(outside)} lead past this host; remove them from its namespace"
        found.append(Check(name, False, text))
    return found
