"""PolicySync the database: what people edit there is in force in every worker within a fifth of a second.

While the database is away, what was in force last stays, also across a restart (`snapshot`).
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
from egress.gateway.supervisor.current import Current
from egress.gateway.supervisor.database import policywriter
from egress.gateway.supervisor.database.holds import HoldDesk
from egress.gateway.supervisor.database.link import DatabaseAwayError, DatabaseLink
from egress.gateway.supervisor.database.policywriter import PolicyFile
from egress.gateway.supervisor.database.presence import Presence
from egress.gateway.supervisor.processes.pool import Pool
from egress.model import Rule
from egress.store.database.handles import Connection
from egress.store.policy import approvals
from egress.store.policy.agents import StoredAgent

POLL_SECONDS = 0.04  # between two looks whether somebody has committed: cheap, but a process that wakes is not
CARE_SECONDS = 1.0  # between two looks at everything else
SAY_SECONDS = 30.0  # between two complaints of the same
SAVE_SECONDS = 0.2  # a change is in force before it is on disk
REMEMBERED = 100  # edits whose way is remembered

log = logging.getLogger("egress.gateway")


class PolicySync:
    """`await start()` before there are workers, `follow()` once they run. `edited` hears that agents are others."""

    def __init__(
        self,
        config: Config,
        file: PolicyFile,
        sandboxes: Callable[[], set[str]],
        edited: Callable[[tuple[StoredAgent, ...]], None],
        changed: Callable[[], None],
    ) -> None:
        self.current = Current()
        self.link = DatabaseLink(config.database_url, config.host_name)
        self.presence = Presence(config, self.link)
        self._path, self._file = config.policy_snapshot, file
        self._sandboxes, self._edited, self._changed = sandboxes, edited, changed
        self._looking = asyncio.Lock()
        self._saving = Coalesced(self._save)
        self._saved: tuple[int, float] | None = None  # which version, and when
        self._save_error = ""
        self._spent: frozenset[str] = frozenset()  # `once` rules that are being taken out
        self._withdrawn = False  # the holds of an earlier gateway
        self._milliseconds: deque[float] = deque(maxlen=REMEMBERED)
        self._told: asyncio.Task[None] | None = None
        self._caring: asyncio.Task[None] | None = None
        self._catching = Coalesced(self._catch)
        self._ended = False
        self._measuring: set[asyncio.Task[None]] = set()
        self._said = 0.0

    async def start(self) -> None:
        """Take what is in force from the database, or from disk where that is away. Raises EgressError, InputError."""
        await asyncio.to_thread(self._start)
        self._saving.ask()

    def follow(self, pool: Pool, holds: HoldDesk) -> None:
        """Begin to tell workers."""
        self._pool, self._holds = pool, holds
        self._caring = asyncio.create_task(self._care())
        self._look()

    async def stop(self) -> None:
        self._ended = True
        tasks = (*self._measuring, *([self._caring] if self._caring else []))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._catching.stop()
        await self._saving.settled()

    async def leave(self) -> None:
        """The last word to the database."""
        with contextlib.suppress(DatabaseAwayError):
            await self.presence.leave()
        self.link.close()

    def check(self) -> None:
        """Raise what ended the following, which must not end before the gateway."""
        if self._caring is not None and self._caring.done():
            self._caring.result()
        self._catching.check()
        self._saving.check()

    # --- edits ------------------------------------------------------------------------------------------

    async def write(self, work: Callable[[Connection], object]) -> None:
        """Write into the database what concerns the policy, and wait until workers judge by it. Raises EgressError."""
        await self.link.write(work)
        await self.catch_up()
        await self.told()

    async def told(self) -> None:
        """Wait until workers judge by what is in force now."""
        if self._told is not None:
            await asyncio.wait([self._told])

    async def reload(self) -> None:
        """Read the policy file again. Raises EgressError; what is in force stays then."""
        listed = await asyncio.to_thread(self._file.read)
        await self.write(lambda connection: self._file.sync(connection, listed))

    async def catch_up(self) -> None:
        """Pass on what was edited since the last time. Raises DatabaseAwayError."""
        async with self._looking:
            now, pending = self.current, frozenset(self._holds.pending)
            version, entry = now.version, now.audit
            host = self.link.host
            found = await self.link.read(
                lambda connection: policywriter.news(connection, host, version, entry, pending)
            )
            if found is None:
                return
            change, spent = found.change, self._spent
            if orders := now.orders_for(change, spent):
                await orders.encoded()
            now.audit = found.audit  # from here on without a pause: nobody sees half of it
            if found.agents != now.agents:
                before, now.agents = now.agents, found.agents
                self._edited(before)
            if change.version != version:
                now.change(change, spent)
                self._told = self._pool.tell_policy(orders or now.orders())
                self._measure(self._told, found.made)
                if change.added or change.removed:  # else it was an edit for another host
                    self._changed()
            self._holds.deny(found.denied)
        self._saving.ask()

    def _look(self) -> None:
        """Again and again; a timer costs less than half of what a sleeping task does."""
        if not self._ended:
            asyncio.get_running_loop().call_later(POLL_SECONDS, self._look)
            if self.link.changed():
                self._catching.ask()

    async def _catch(self) -> None:
        with contextlib.suppress(DatabaseAwayError):  # `_care` says so
            await self.catch_up()

    def _measure(self, told: asyncio.Task[None], made: float | None) -> None:
        async def wait() -> None:
            await asyncio.wait([told])
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
            self._open(known.version if known else 0, known.audit if known else 0)
            self.presence.enter(known.host if known else None)
            listed = self._file.read()
            with self.link.writing() as connection:
                self._settle(connection, listed)
            with self.link.reading() as connection:
                self.current.take(policywriter.everything(connection, self.link.host))
        except DatabaseAwayError:
            if known is None:
                raise EgressError("; ".join(filter(None, (self.link.error, problem)))) from None
            self.current.take(known)
            self._said = time.monotonic()
            log.error(
                "THE DATABASE IS AWAY: %s. Policy version %d and %d agents of %s are in force until it is back",
                *(self.link.error, known.version, len(known.agents), self._path),
            )
        else:
            if problem:
                log.warning("%s; it is written anew", problem)

    def _open(self, version: int, entry: int) -> None:
        """A database is made where there never was one; not in place of one that is gone."""
        self.link.open(create=not self._path.exists(), version=version, entry=entry)

    def _settle(self, connection: Connection, listed: tuple[Rule, ...]) -> None:
        """Write what is so on this side: the file's rules, the sandboxes there are, no holds of an earlier gateway."""
        self._file.sync(connection, listed)
        policywriter.leave_all_but(connection, self.link.host, self._sandboxes())
        if not self._withdrawn:
            approvals.withdraw_all(connection, time.time(), self.link.host)
        self._withdrawn = True

    async def _care(self) -> None:
        """Each second: is the database there, which rules are spent?"""
        while True:
            await asyncio.sleep(CARE_SECONDS)
            try:
                if not self.link.ok:
                    await self._return()
                elif self.current.once:
                    await self._remove_spent()
                await self.presence.beat(self._pool.policy_version(self.current.version), len(self.current.agents))
            except DatabaseAwayError:
                self._complain()
            except (EgressError, OSError) as error:
                log.error("%s", error)
            if self._save_error or not self._path.exists():
                self._saving.ask()

    async def _remove_spent(self) -> None:
        host = self.link.host
        if spent := await self.link.read(lambda connection: policywriter.spent(connection, host)):
            self._spent = spent
            await self.write(lambda connection: policywriter.remove(connection, host, spent))

    async def _return(self) -> None:
        """Open it again. Raises DatabaseAwayError while that cannot be."""
        since = self.link.since or time.time()
        await asyncio.to_thread(self.link.open, create=False, version=self.current.version, entry=self.current.audit)
        await self.presence.renew(self.current.host)
        self.current.host = self.link.host
        log.warning("the database is back after %.0f s", time.time() - since)
        self._said = 0.0
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
        if time.monotonic() > self._said + SAY_SECONDS or not self._said:
            self._said = time.monotonic()
            log.error(
                "the database is away: %s; policy version %d stays in force, it is tried again",
                *(self.link.error, self.current.version),
            )

    # --- on disk ----------------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Takes as long a rest as it took: it may cost a sixth of a core at most, however fast people edit."""
        await asyncio.sleep(SAVE_SECONDS)
        began, taken = time.monotonic(), self.current.snapshot()
        try:
            await snapshot.write(self._path, taken)
        except OSError as error:
            if not self._save_error:
                log.error("cannot write %s: %s; it is tried again", self._path, error.strerror)
            self._save_error = error.strerror or str(error)
            return
        self._saved, self._save_error = (taken.version, time.time()), ""
        if not self._ended:
            await asyncio.sleep(time.monotonic() - began)

    def status(self) -> dict[str, object]:
        """For the control socket: milliseconds from an edit to the last worker's word that it is in force."""
        saved, spent = self._saved, self._milliseconds
        return {
            "database": {"ok": self.link.ok, "since": self.link.since, "error": self.link.error},
            "snapshot": {"version": saved and saved[0], "time": saved and saved[1], "error": self._save_error},
            "propagation": {
                "edits": len(spent),
                "last": round(spent[-1], 1) if spent else None,
                "median": round(statistics.median(spent), 1) if spent else None,
                "worst": round(max(spent), 1) if spent else None,
            },
        }
