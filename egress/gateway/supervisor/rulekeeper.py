"""Keeps the kernel rules: installs them once workers are bound, restores them, at the end removes or leaves them."""

from __future__ import annotations

import logging
import threading
import time

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import guard
from egress.gateway.kernel.drops import drops
from egress.gateway.kernel.guard import Guard
from egress.gateway.supervisor.roster import Roster

LEAVING_SECONDS = 2.0  # wait for the workers of a killed gateway to end

log = logging.getLogger("egress.gateway")


class RuleKeeper:
    """Installs, checks and removes the rules. Calls wait for the kernel: make them from a thread."""

    def __init__(self, config: Config, roster: Roster) -> None:
        self._config, self._roster = config, roster
        self._guard = Guard(config)
        self._installing = threading.Lock()
        self._guarding = self._ended = False  # rules are installed; none may be installed any more

    def install(self) -> None:
        """Install the rules for the roster as it is now; no effect after `leave`. Raises EgressError."""
        with self._installing:
            if not self._ended:
                self._guarding = True
                self._guard.install(self._roster.attachments(self._config))

    def installed(self) -> bool:
        return self._guard.installed()

    def keep(self) -> None:
        """Restore the rules if another program has changed them, or put its own before them."""
        if not self.installed():
            log.warning("another program changed the kernel rules: ours are installed again")
            self.install()

    def leave(self, *, asked: bool) -> None:
        """Remove the rules at the end, let them block, or leave them as they are.

        After a clean stop (`asked`) `on_stop` decides. After a failure rules that guard agents stay: these are cut off.
        """
        left = ", ".join(entry.agent.name for entry in self._roster.entries.values())
        with self._installing:
            self._ended = True  # a change that is under way must not install them again
            if asked and left and self._config.on_stop == "block":
                self._guard.block(self._roster.attachments(self._config))
                log.warning("stopped: blocked until the gateway runs again: %s", left)
            elif asked or (self._guarding and not left):
                self._guard.remove()
                if left:
                    log.warning("stopped: STILL ATTACHED AND UNGUARDED: %s", left)
            elif self._guarding:
                log.error("the kernel rules stay: cut off until the gateway runs again: %s", left)


def require_no_other_gateway() -> None:
    """Raise EgressError while another gateway's workers read the queues that the kernel rules lead to.

    The names of the chains are fixed: two gateways, each with a run_dir of its own, would replace each other's rules.
    """
    deadline = time.monotonic() + LEAVING_SECONDS
    while read := guard.state().queues & drops().keys():
        if time.monotonic() > deadline:
            raise EgressError(
                f"another gateway guards this network namespace (it reads queue {min(read)}): stop it first"
            )
        time.sleep(0.1)
