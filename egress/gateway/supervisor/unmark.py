"""Marks and connections that have outlived their reason: what is done when rules, agents or sandboxes change.

| …                                  | what becomes of the agents' entries in the kernel's connection table            |
|------------------------------------|---------------------------------------------------------------------------------|
| other rules, an agent's other mode | refused ones are undecided again: the engine judges, and remembers its findings |
| an agent is quarantined            | settled ones are undecided again: what still comes in is queued, and refused    |
| an attached agent comes or goes    | none keeps a mark of ours; the connections themselves, and their NAT, live on   |
| a sandbox comes or goes            | deleted: the next one with its addresses must inherit nothing                   |

A start changes nothing: it remembers no findings, and what was refused for one must not begin again in mid-stream. A
failure is said in one line and costs no protection: what stays is a refusal, or a mark that the next change takes.
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


def pardon(entries: Iterable[RosterEntry], config: Config) -> None:
    """Let the engine judge again what the kernel refuses by itself. Call it once the workers know what has changed."""
    marks = Marks(config.mark_mask)
    try:
        networks = _networks(entries)
        conntrack.unmark(networks, value=marks.value("refused"), match=marks.refusal_mask, clear=marks.mask)
    except EgressError as error:
        log.error("what was refused stays refused for as long as it is tried: %s", error)


def listen_again(entries: Iterable[RosterEntry], config: Config) -> None:
    """Queue the replies of settled connections too: their agents may receive nothing any more."""
    marks = Marks(config.mark_mask)
    networks = _networks(entry for entry in entries if entry.agent.quarantined)
    try:
        if networks:
            conntrack.unmark(networks, value=marks.value("settled"), match=marks.mask, clear=marks.mask)
    except EgressError as error:
        log.error("a quarantined agent may receive until it next sends something: %s", error)


def forget(entries: Iterable[RosterEntry], config: Config) -> None:
    """Before an agent's first packet, and after its last one."""
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
