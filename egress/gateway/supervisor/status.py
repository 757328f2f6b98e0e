"""The status of a running gateway, as `egress doctor`, the API and its metrics ask for it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from egress.gateway.kernel import guard
from egress.gateway.supervisor.roster import RosterEntry

if TYPE_CHECKING:
    from egress.gateway.supervisor.supervisor import Gateway


async def collect(gateway: Gateway) -> dict[str, object]:
    """Collect the status as JSON values and tuples. Raises EgressError if the kernel rules cannot be read."""
    rules = gateway.rules
    counters, in_place = await asyncio.to_thread(lambda: (guard.counters(), rules.installed()))
    return {
        "host": gateway.config.host_name,
        "pid": os.getpid(),
        "since": gateway.since,
        "fail_open": gateway.config.fail_open,
        "policy_version": gateway.policy.current.version,
        "workers": gateway.pool.status(),
        "agents": [_agent(gateway, entry) for entry in gateway.roster.entries.values()],
        "absent": gateway.attached.absent,
        "recorder": gateway.recorder.status(),
        "journal": gateway.journals.status(),
        "attribution": gateway.attribution.status(),
        "rules": counters,
        "rules_in_place": in_place,
        "rules_owned": rules.owned,
        "rules_changed": rules.changes,
        "cut": rules.cut,
        "holds": {"pending": len(gateway.holds.pending), "refused": gateway.holds.refused},
        **gateway.policy.status(),
    }


def _agent(gateway: Gateway, entry: RosterEntry) -> dict[str, object]:
    name = entry.agent.name
    return {
        **entry.status(),
        "worker": gateway.roster.worker(name),
        "sandbox": name in gateway.sandboxes.open,
        "queue": gateway.roster.queue(name),
        "dropped": gateway.drops.status(gateway.roster.queue(name)),
    }
