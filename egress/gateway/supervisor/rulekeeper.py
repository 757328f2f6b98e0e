"""Keep the kernel rules: install them for the roster, restore them, and at the end remove or leave them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import guard
from egress.gateway.kernel.drops import drops
from egress.gateway.kernel.guard import Guard
from egress.gateway.supervisor import rest
from egress.gateway.supervisor.roster import Roster

LEAVING_SECONDS = 2.0  # wait for the workers of a killed gateway to end
TAMPER_SECONDS = 60.0  # `tamper_limit` changes by others within this time are too many

log = logging.getLogger("egress.gateway")


class RuleKeeper:
    """Installs, checks and removes the rules. Calls wait for the kernel: make them from a thread.

    If other programs change the rules again and again (`tamper_limit` times in TAMPER_SECONDS), all agents are blocked,
    or "cut off", until `resume`, also over a restart. Methods raise EgressError if the kernel refuses.
    """

    def __init__(self, config: Config, roster: Roster) -> None:
        self._config, self._roster = config, roster
        self._guard = Guard(config)
        self._installing = threading.Lock()
        self._guarding = self._ended = False  # rules are installed; none may be installed any more
        self.behind = False  # the kernel refused the last change: interfaces may be unguarded
        self._changed: deque[float] = deque(maxlen=max(config.tamper_limit, 1))  # monotonic, of the last changes
        self.changes = 0  # by other programs, so far

    @property
    def port(self) -> int:
        """The netlink port that our own changes have in the kernel's notifications."""
        return self._guard.port

    @property
    def owned(self) -> bool:
        """False: this kernel lets other programs change our table."""
        return self._guard.owned

    @property
    def cut(self) -> bool:
        """True while agents are cut off because others kept changing the rules."""
        return self._config.cut_note.exists()

    def install(self) -> None:
        """Install the rules for the roster as it is now; blocking rules while agents are cut off.

        Also writes the interfaces for a block at boot (`rest.remember`), and deletes the note of an opening. No effect
        after `leave`.
        """
        with self._installing:
            if self._ended:
                return
            self._guarding = self.behind = True
            found = self._roster.attachments()
            if self.cut:
                self._guard.block(found)
            else:
                self._guard.install(found)
            self.behind = False
            self._config.opened_note.unlink(missing_ok=True)
            try:
                rest.remember(self._config, found)
            except EgressError as error:
                log.error("agents attached since the last start will not be blocked at boot: %s", error)

    def installed(self) -> bool:
        """Return True if the rules are as the last `install` made them; False if the kernel refused that (`behind`)."""
        return not self.behind and self._guard.installed()

    def keep(self) -> None:
        """Restore the rules if another program has changed them; cut agents off if that happens too often.

        While `behind`: try the change again that the kernel refused.
        """
        if self.behind:
            self.install()
            return
        if not self._guarding or self.installed():
            return
        self.changes += 1
        now, limit = time.monotonic(), self._config.tamper_limit
        self._changed.append(now)
        log.warning("another program changed the kernel rules: ours are installed again")
        if limit and not self.cut and len(self._changed) == limit and now - self._changed[0] < TAMPER_SECONDS:
            self._config.cut_note.touch()
            log.error(
                "the kernel rules were changed %d times within a minute: ALL AGENTS ARE CUT OFF until `egress resume`; "
                "find the program that changes them first",
                limit,
            )
        self.install()

    def resume(self) -> bool:
        """End the cut-off: install the guarding rules again. Returns False if agents were not cut off."""
        there = self.cut
        self._config.cut_note.unlink(missing_ok=True)
        self._changed.clear()
        if there:
            self.install()
        return there

    def leave(self, *, asked: bool) -> None:
        """Block agents at the end, remove the rules, or leave them as they are.

        After a clean stop (`asked`) the setting `on_stop` decides. After a failure, rules that guard attached agents
        stay: without workers the kernel drops all their packets.
        """
        attached = [each for each in self._roster.attachments() if not each.masquerade]
        left = ", ".join(dict.fromkeys(each.agent for each in attached))
        with self._installing:
            self._ended = True  # a change that is under way must not install them again
            if asked and left and self._config.on_stop == "block":
                self._guard.block(attached)
                log.warning("stopped: blocked until the gateway runs again: %s", left)
            elif asked or (self._guarding and not left):
                self._guard.remove()
                if left:
                    log.warning("stopped: STILL ATTACHED AND UNGUARDED: %s", left)
            elif self._guarding:
                log.error("the kernel rules stay: cut off until the gateway runs again: %s", left)


def require_no_other_gateway() -> None:
    """Raise EgressError if processes of another gateway still read the queues of our rules after LEAVING_SECONDS.

    The names of the chains are fixed: two gateways, each with a run_dir of its own, would replace each other's rules.
    """
    deadline = time.monotonic() + LEAVING_SECONDS
    while read := guard.state().queues & drops().keys():
        if time.monotonic() > deadline:
            raise EgressError(
                f"another gateway guards this network namespace (it reads queue {min(read)}): stop it first"
            )
        time.sleep(0.1)
