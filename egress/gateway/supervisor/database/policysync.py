"""Pass edits of policy and agents from the database to the workers, within a fifth of a second.

While the database is away, the last policy and agents stay in force, also across a restart (`snapshot`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.supervisor import snapshot
from egress.gateway.supervisor.coalesce import Coalesced
from egress.gateway.supervisor.complaint import Complaint
from egress.gateway.supervisor.current import Current
from egress.gateway.supervisor.database import policywriter
from egress.gateway.supervisor.database.holds import HoldDesk
from egress.gateway.supervisor.database.link import DatabaseAwayError, DatabaseLink
from egress.gateway.supervisor.database.policywriter import PolicyFile, TrailError
from egress.gateway.supervisor.database.presence import Presence
from egress.gateway.supervisor.processes.pool import Pool
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import Rule
from egress.store.database.handles import Connection
from egress.store.policy import approvals
from egress.store.policy.agents import StoredAgent

POLL_SECONDS = 0.04  # between two checks for commits: the check is cheap, waking the process is not
MAINTAIN_SECONDS = 1.0  # between two rounds of other work
SAVE_SECONDS = 0.2  # from a change to the write of its snapshot
TRAIL_SECONDS = 5.0  # between two comparisons of the audit trail with the newest entry seen here
HEAD_SECONDS = 3600.0  # between two log lines with its head, beyond one for each edit
REMEMBERED = 100  # edits whose propagation time is remembered

log = logging.getLogger("egress.gateway")


class PolicySync:
    """Follows the database. Call `await start()` before the workers start, and `follow()` once they run.

    After an edit it calls `agents_changed` with the agents before the edit, or `policy_changed`, or both. `sandboxes`
    returns the names of open sandboxes.
    """

    def __init__(
        self,
        config: Config,
        file: PolicyFile,
        sandboxes: Callable[[], set[str]],
        agents_changed: Callable[[tuple[StoredAgent, ...]], None],
        policy_changed: Callable[[], None],
    ) -> None:
        self.current = Current()
        self.link = DatabaseLink(config.database_url, config.host_name)
        self.presence = Presence(config, self.link)
        self._path, self._file = config.policy_snapshot, file
        self._sandboxes, self._agents_changed, self._policy_changed = sandboxes, agents_changed, policy_changed
        self._catching_up = asyncio.Lock()
        self._saving = Coalesced(self._save)
        self._saved: tuple[int, float] | None = None  # version, and when
        self._save_error = ""
        self._unsaved_since: float | None = None  # time of the oldest change that the snapshot lacks
        self._spent: frozenset[str] = frozenset()  # ids of spent rules that are being removed
        self._withdrawn = False  # holds of an earlier gateway were withdrawn
        self._milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self._applying: asyncio.Task[None] | None = None
        self._caring: asyncio.Task[None] | None = None
        self._catching = Coalesced(self._try_catch_up)
        self._ended = False
        self._measuring: set[asyncio.Task[None]] = set()
        self._complaint = Complaint()
        self._trail_due = self._head_due = 0.0  # the next comparison with the audit trail, the next log line about it

    async def start(self) -> None:
        """Load policy and agents from the database, or from the snapshot if it is away. Raises EgressError."""
        await asyncio.to_thread(self._start)
        self._schedule_save()

    def follow(self, pool: Pool, holds: HoldDesk) -> None:
        """Begin to pass edits on to the workers."""
        self._pool, self._holds = pool, holds
        self._caring = asyncio.create_task(self._maintain())
        self._poll()

    async def stop(self) -> None:
        """Cancel the background tasks, and wait until the snapshot is written."""
        self._ended = True
        tasks = (*self._measuring, *([self._caring] if self._caring else []))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._catching.stop()
        await self._saving.settled()

    async def leave(self) -> None:
        """Free this gateway's name in the database, and close the link."""
        with contextlib.suppress(DatabaseAwayError):
            await self.presence.leave()
        self.link.close()

    def check(self) -> None:
        """Raise the exception of a background task that has failed. Call it regularly."""
        if self._caring is not None and self._caring.done():
            self._caring.result()
        self._catching.check()
        self._saving.check()

    # --- edits ------------------------------------------------------------------------------------------

    async def write(self, work: Callable[[Connection], object]) -> None:
        """Write a change into the database in one transaction, and wait until the workers have it.

        Raises EgressError, DatabaseAwayError if the database cannot be used.
        """
        await self.link.write(work)
        await self.catch_up()
        await self.applied()

    async def applied(self) -> None:
        """Wait until all workers have the newest policy that was sent to them."""
        if self._applying is not None:
            await asyncio.wait([self._applying])

    async def reload(self) -> None:
        """Read the policy file again. Raises EgressError, and then the policy in force stays."""
        listed = await asyncio.to_thread(self._file.read)
        await self.write(lambda connection: self._file.sync(connection, listed))

    async def catch_up(self) -> None:
        """Pass edits since the last call on to the workers. Raises DatabaseAwayError."""
        async with self._catching_up:
            now, pending = self.current, frozenset(self._holds.pending)
            version, entry, head = now.version, now.audit, now.head
            host = self.link.host
            try:
                found = await self.link.read(
                    lambda connection: policywriter.read_edits(connection, host, version, entry, head, pending)
                )
            except TrailError as error:
                raise self.link.lost(str(error)) from None
            if found is None:
                return
            change, spent = found.change, self._spent
            if orders := now.orders_for(change, spent):
                await orders.encoded()
            now.audit, now.head = found.audit, found.head  # from here on without an await: no task sees half of it
            self._log_head()
            if found.agents != now.agents:
                before, now.agents = now.agents, found.agents
                self._agents_changed(before)
            if change.version != version:
                now.change(change, spent)
                self._applying = self._pool.order_policy(orders or now.orders())
                self._measure(self._applying, found.made)
                if change.added or change.removed:  # else it was an edit for another host
                    self._policy_changed()
            self._holds.deny(found.denied)
        self._schedule_save()

    def _poll(self) -> None:
        """Check for commits every POLL_SECONDS. A timer costs less than half as much as a sleeping task."""
        if not self._ended:
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)
            if self.link.changed():
                self._catching.schedule()

    async def _try_catch_up(self) -> None:
        with contextlib.suppress(DatabaseAwayError):  # `_maintain` logs it
            await self.catch_up()

    def _measure(self, applying: asyncio.Task[None], made: float | None) -> None:
        async def wait() -> None:
            await asyncio.wait([applying])
            if made is not None:
                self._milliseconds.append((time.time() - made) * 1000)

        task = asyncio.create_task(wait())
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    # --- the database -----------------------------------------------------------------------------------

    def _start(self) -> None:
        known, problem = None, ""
        try:
            known = snapshot.read(self._path)
        except EgressError as error:
            problem = str(error)
        try:
            self._open(known or Snapshot(0, 0))
            self.presence.enter(known.host if known else None)
            listed = self._file.read()
            with self.link.writing() as connection:
                self._settle(connection, listed)
            with self.link.reading() as connection:
                self.current.replace(policywriter.read_all(connection, self.link.host))
        except DatabaseAwayError:
            if known is None:
                raise EgressError("; ".join(filter(None, (self.link.error, problem)))) from None
            self.current.replace(known)
            self._complaint.due()
            log.error(
                "THE DATABASE IS AWAY: %s. Policy version %d and %d agents of %s are in force until it is back",
                *(self.link.error, known.version, len(known.agents), self._path),
            )
        else:
            if problem:
                log.warning("%s; it is replaced", problem)

    def _open(self, known: Snapshot) -> None:
        """Open the database. It is created if there never was one, but not in place of one that is gone."""
        create = not self._path.exists()
        self.link.open(create=create, version=known.version, entry=known.audit, head=known.head)

    def _settle(self, connection: Connection, listed: tuple[Rule, ...]) -> None:
        """Update this gateway's own rows.

        Stores the rules of its policy file, removes sandboxes that are not open, withdraws holds of an earlier run.
        """
        self._file.sync(connection, listed)
        policywriter.remove_other_sandboxes(connection, self.link.host, self._sandboxes())
        if not self._withdrawn:
            approvals.withdraw_all(connection, time.time(), self.link.host)
        self._withdrawn = True

    async def _maintain(self) -> None:
        """Do the work of each second: reopen the database if it is away, remove spent rules, send a heartbeat."""
        while True:
            await asyncio.sleep(MAINTAIN_SECONDS)
            try:
                if not self.link.ok:
                    await self._reopen()
                elif self.current.once:
                    await self._remove_spent()
                await self._watch_trail()
                await self.presence.beat(self._pool.policy_version(self.current.version), len(self.current.agents))
            except DatabaseAwayError:
                self._complain()
            except (EgressError, OSError) as error:
                log.error("%s", error)
            if self._save_error or not self._path.exists():
                self._schedule_save()

    async def _watch_trail(self) -> None:
        """Compare the audit trail with the newest entry seen here every TRAIL_SECONDS; log its hash every HEAD_SECONDS.

        PostgreSQL does not report that rows were deleted. The log is outside the database: an owner of the database
        who cuts off the end of the trail cannot change it. Raises DatabaseAwayError if the entry is gone.
        """
        now = time.monotonic()
        if now >= self._head_due:
            self._log_head()
        if now < self._trail_due or not self.link.ok:
            return
        self._trail_due = now + TRAIL_SECONDS
        entry, head = self.current.audit, self.current.head
        try:
            await self.link.read(lambda connection: policywriter.require_entry(connection, entry, head))
        except TrailError as error:
            raise self.link.lost(str(error)) from None

    def _log_head(self) -> None:
        self._head_due = time.monotonic() + HEAD_SECONDS
        log.info("audit trail: entry %d, head %s", self.current.audit, self.current.head or "none")

    async def _remove_spent(self) -> None:
        host = self.link.host
        if spent := await self.link.read(lambda connection: policywriter.spent_rules(connection, host)):
            self._spent = spent
            await self.write(lambda connection: policywriter.remove_spent(connection, host, spent))

    async def _reopen(self) -> None:
        """Open the database again. Raises DatabaseAwayError while it is still away."""
        since = self.link.since or time.time()
        now = self.current
        await asyncio.to_thread(self.link.open, create=False, version=now.version, entry=now.audit, head=now.head)
        await self.presence.renew(self.current.host)
        self.current.host = self.link.host
        log.warning("the database is back after %.0f s", time.time() - since)
        self._complaint.over()
        try:
            listed = await asyncio.to_thread(self._file.read)
            await self.link.write(lambda connection: self._settle(connection, listed))
        except DatabaseAwayError:
            raise
        except EgressError as error:
            log.error("the rules of the policy file stay as they were: %s", error)
        await self.catch_up()
        self._holds.catch_up()

    def _complain(self) -> None:
        if self._complaint.due():
            log.error(
                "the database is away: %s; policy version %d stays in force; trying again",
                *(self.link.error, self.current.version),
            )

    # --- on disk ----------------------------------------------------------------------------------------

    def _schedule_save(self) -> None:
        if self._unsaved_since is None:
            self._unsaved_since = time.time()
        self._saving.schedule()

    async def _save(self) -> None:
        """Write the snapshot SAVE_SECONDS after a change, then pause for as long as that took, to bound the cost.

        Errors are logged and kept for `status`.
        """
        await asyncio.sleep(SAVE_SECONDS)
        began, taken, taken_at = time.monotonic(), self.current.snapshot(), time.time()
        try:
            await snapshot.write(self._path, taken)
        except OSError as error:
            if not self._save_error:
                log.error("cannot write %s: %s; trying again", self._path, error.strerror)
            self._save_error = error.strerror or str(error)
            return
        self._saved, self._save_error = (taken.version, time.time()), ""
        is_newest = (taken.version, taken.audit) == (self.current.version, self.current.audit)
        self._unsaved_since = None if is_newest else taken_at
        if not self._ended:
            await asyncio.sleep(time.monotonic() - began)

    def status(self) -> dict[str, object]:
        """Return the state of audit trail, database, snapshot, and propagation.

        Propagation: milliseconds from an edit's commit until all workers have it, of the last REMEMBERED edits.
        """
        saved, spent = self._saved, self._milliseconds
        return {
            "audit": {"entry": self.current.audit, "head": self.current.head},
            "database": {"ok": self.link.ok, "since": self.link.since, "error": self.link.error},
            "snapshot": {
                "version": saved and saved[0],
                "time": saved and saved[1],
                "unsaved_since": self._unsaved_since,
                "error": self._save_error,
            },
            "propagation": {
                "edits": len(spent),
                "last": round(spent[-1], 1) if spent else None,
                "median": round(statistics.median(spent), 1) if spent else None,
                "worst": round(max(spent), 1) if spent else None,
            },
        }
