"""What `egress doctor` says of the other gateways at this database, of the clocks, and of agents that are nobody's."""

from __future__ import annotations

from egress.config import Config
from egress.gateway.supervisor.checks import Check
from egress.store.database.clock import clock
from egress.store.database.handles import Connection
from egress.store.policy import gateways, ruleset
from egress.store.policy.agents import list_agents
from egress.store.policy.gateways import SILENT, UP

MAX_SKEW = 0.5  # seconds between this host's clock and the database's


def fleet(connection: Connection, config: Config) -> list[Check]:
    """Nothing where one gateway has the database for itself."""
    now, skew = clock(connection)
    there, newest = gateways.listed(connection), ruleset.current(connection)
    found = []
    if unowned := [each.agent.name for each in list_agents(connection, "")]:
        text = f"agents {', '.join(unowned)} belong to no host: start the upgraded gateway that they are attached to"
        found.append(Check("fleet agents", False, text))
    if len(there) > 1:
        silent = [each.host for each in there if each.state(now) == SILENT]
        behind = [each.host for each in there if each.state(now) == UP and each.policy_version < newest]
        text = f"{len(there)} gateways, this one is {config.host_name}"
        text += f"; behind policy version {newest}: {', '.join(behind)}" if behind else ""
        text += f"; nothing is heard of {', '.join(silent)}: see egress fleet" if silent else ""
        found.append(Check("fleet", not silent, text))
    if abs(skew) > MAX_SKEW:
        text = f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database's: what"
        found.append(Check("clock", False, f"{text} happened on several hosts is shown in the wrong order; sync them"))
    return found
