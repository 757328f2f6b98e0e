"""Checks of `egress doctor` on the guard in the kernel: interfaces that bypass it, programs that use its mark bits."""

from __future__ import annotations

from typing import Any

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import overlap
from egress.gateway.supervisor.checks import Check

SHOWN = 3  # overlapping rules that are named


def ways(agent: dict[str, Any]) -> list[Check]:
    """Check that an agent has no other way to the network than the interface that it is attached by.

    `agent`: its part of the gateway's status. Returns a failed check for other guarded interfaces, one for unguarded
    ones; empty if there are none.
    """
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


def marks(config: Config) -> Check:
    """Check that no rule of another program uses our bits of packet and connection marks.

    The check fails, too, if the rules cannot be listed.
    """
    try:
        every = overlap.users()
    except EgressError as error:
        return Check("marks", False, f"cannot tell whether other programs use the bits of mark_mask: {error}")
    found = [each.text for each in every if each.overlaps(config.mark_mask)]
    if not found:
        return Check("marks", True, f"no other program's rules use the bits {config.mark_mask:#x}")
    named = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    free = overlap.unused(every)
    advice = f"set mark_mask: {free:#x}, and restart" if free else "no four bits are free: change the other program's"
    text = f"other programs use the bits {config.mark_mask:#x}, and one of them loses its marks or connections: {named}"
    return Check("marks", False, f"{text}; {advice}")
