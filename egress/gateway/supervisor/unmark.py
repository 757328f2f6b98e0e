"""Remove marks and connections that have outlived their reason, when rules, agents or sandboxes change.

| change                          | the agents' entries in the kernel's connection table                               |
|---------------------------------|------------------------------------------------------------------------------------|
| rules, or the mode of an agent  | refused ones become undecided: the engine judges again, and remembers its findings |
| an agent is quarantined         | settled ones become undecided: packets that still come in are queued, and refused  |
| an attached agent comes or goes | none keeps a mark of ours; the connections themselves, and their NAT, stay         |
| a sandbox comes or goes         | deleted: the next sandbox with its addresses must inherit nothing                  |

A start changes nothing: a new engine remembers no findings, and a connection refused for one must not go on in
mid-stream. A failure is logged in one line and costs no protection: a refusal stays, or a mark until the next change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import conntrack
from egress.gateway.kernel.marks import VALUES, Marks
from egress.gateway.supervisor.roster import RosterEntry

log = logging.getLogger("egress.gateway")


def clear_refusals(entries: Iterable[RosterEntry], config: Config) -> None:
    """Let the engine judge connections again that the kernel refuses. Call this once the workers have the change."""
    marks = Marks(config.mark_mask)
    try:
        networks = _networks(entries)
        conntrack.unmark(networks, value=marks.value("refused"), match=marks.refusal_mask, clear=marks.mask)
    except EgressError as error:
        log.error("refused connections stay refused for as long as their clients try: %s", error)


def queue_replies(entries: Iterable[RosterEntry], config: Config) -> None:
    """Queue the replies of settled connections of quarantined agents: these may receive nothing any more."""
    marks = Marks(config.mark_mask)
    networks = _networks(entry for entry in entries if entry.agent.quarantined)
    try:
        if networks:
            conntrack.unmark(networks, value=marks.value("settled"), match=marks.mask, clear=marks.mask)
    except EgressError as error:
        log.error("a quarantined agent may receive until it next sends something: %s", error)


def forget(entries: Iterable[RosterEntry], config: Config) -> None:
    """Forget an agent's connections, before its first packet and after its last."""
    found, marks = list(entries), Marks(config.mark_mask)
    attached = _networks(entry for entry in found if not entry.masquerade)
    try:
        conntrack.delete(_networks(entry for entry in found if entry.masquerade))
        for name in VALUES.keys() - {"undecided"}:
            conntrack.unmark(attached, value=marks.value(name), match=marks.mask, clear=marks.mask)
    except EgressError as error:
        log.error("connections of an agent that came or went keep their marks: %s", error)


def _networks(entries: Iterable[RosterEntry]) -> set[str]:
    return {network for entry in entries for network in entry.agent.networks}
