"""Clear the marks of connections, or delete their entries, after a change of rules, agents or sandboxes.

| change                           | the agents' entries in the kernel's connection table (conntrack)                  |
|----------------------------------|-----------------------------------------------------------------------------------|
| rules, or settings of an agent   | refused entries become undecided: the engine judges again, and remembers findings |
| an agent is quarantined          | settled entries become undecided, too: their replies are queued, and refused      |
| an agent is attached or detached | the entries, and their NAT, stay, but lose the marks of egress                    |
| a sandbox is opened or closed    | the entries are deleted: the next sandbox with its addresses inherits nothing     |

A start of the gateway clears nothing: a new engine remembers no findings, and a connection that was refused for one
must not go on in mid-stream. A failure is logged in one line: refusals and marks stay until the next change, and a
quarantined agent may receive on a settled connection until it sends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import conntrack
from egress.gateway.kernel.marks import KEPT, Marks
from egress.gateway.supervisor.roster import RosterEntry

log = logging.getLogger("egress.gateway")


def clear_refusals(entries: Iterable[RosterEntry], config: Config) -> None:
    """Clear the agents' refusal marks, so that the engine judges these connections again. Errors are logged.

    Call it once the workers have the change.
    """
    marks = Marks(config.mark_mask)
    try:
        networks = _networks(entries)
        conntrack.unmark(networks, value=marks.value("refused"), match=marks.refusal_mask, clear=marks.mask)
    except EgressError as error:
        log.error("refused connections stay refused for as long as their clients try: %s", error)


def queue_replies(entries: Iterable[RosterEntry], config: Config) -> None:
    """Clear the settled marks of quarantined agents: replies to them are queued again, and refused.

    Errors are logged.
    """
    marks = Marks(config.mark_mask)
    networks = _networks(entry for entry in entries if entry.agent.quarantined)
    try:
        if networks:
            conntrack.unmark(networks, value=marks.value("settled"), match=marks.mask, clear=marks.mask)
    except EgressError as error:
        log.error("a quarantined agent may receive on a settled connection until it sends on it: %s", error)


def forget(entries: Iterable[RosterEntry], config: Config) -> None:
    """Delete the connection entries of sandboxes, and clear the marks of attached agents' entries. Errors are logged.

    Call it before an agent is attached or a sandbox opened, and after it is detached or closed.
    """
    found, marks = list(entries), Marks(config.mark_mask)
    attached = _networks(entry for entry in found if not entry.masquerade)
    try:
        conntrack.delete(_networks(entry for entry in found if entry.masquerade))
        for name in KEPT:
            conntrack.unmark(attached, value=marks.value(name), match=marks.mask, clear=marks.mask)
    except EgressError as error:
        log.error("connections of an agent that was attached or detached keep their marks: %s", error)


def _networks(entries: Iterable[RosterEntry]) -> set[str]:
    return {network for entry in entries for network in entry.agent.networks}
