"""The supervisor, `egress gateway`: it starts, watches and stops workers, kernel rules, recorder and control socket.

Kernel rules are installed before workers bind the queues: until then the kernel drops the queued packets. Every later
failure fails closed, too: only a clean stop removes rules that guard an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress.config import Config
from egress.control import NotRunningError
from egress.errors import EgressError
from egress.gateway.kernel import privileges
from egress.gateway.pipe.messages import Settings, Setup
from egress.gateway.supervisor import attachments, checks, rulekeeper, startup, status, systemd, unmark
from egress.gateway.supervisor.attachments import Attachments
from egress.gateway.supervisor.coalesce import Coalesced, Joined
from egress.gateway.supervisor.complaint import Complaint
from egress.gateway.supervisor.control import Server, Session
from egress.gateway.supervisor.database import policywriter
from egress.gateway.supervisor.database.holds import HoldDesk
from egress.gateway.supervisor.database.link import DatabaseAwayError
from egress.gateway.supervisor.database.policysync import PolicySync
from egress.gateway.supervisor.journals import Journals, fitted
from egress.gateway.supervisor.processes.attribution import AttributionProcess
from egress.gateway.supervisor.processes.pool import Hooks, Pool
from egress.gateway.supervisor.processes.recorder import RecorderProcess
from egress.gateway.supervisor.queuedrops import QueueDrops
from egress.gateway.supervisor.roster import Roster, RosterEntry
from egress.gateway.supervisor.sandboxes import Sandboxes
from egress.gateway.supervisor.watching import Watching
from egress.model import Action, Agent
from egress.store.database.tables import SANDBOX
from egress.store.policy import audit
from egress.store.policy.agents import StoredAgent

SECOND = 1.0
RULES_SECONDS = 30.0  # between two checks of our kernel rules without a notification of a change
IDLE_SECONDS = 15.0  # a gateway that ends when idle waits this long for its first sandbox
PATIENCE = 10.0  # and this long for a predecessor that is ending

log = logging.getLogger("egress.gateway")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of `egress gateway` beyond its config: policy file, directory of captures, end without sandboxes."""

    policy: Path | None = None
    capture: str = ""
    exit_when_idle: bool = False


class Gateway:
    """One run of the gateway.

    Changes of the roster (agents, their interfaces and workers) and of kernel rules take the lock `_changing`. Edits of
    the policy do not wait for it, since the tools of the system are slow.
    """

    def __init__(self, config: Config, options: Options) -> None:
        size = config.workers or os.cpu_count() or 1
        writers = size + config.attribution
        self.config = config = fitted(config, writers)
        self.options = options
        self.sandboxes = Sandboxes(config)
        file = policywriter.PolicyFile(config, options.policy)
        self._attaching, self._unmarking = Coalesced(self._reattach), Coalesced(self._unmark)
        changed = self._agents_changed, self._unmarking.schedule  # connections that the kernel refuses are judged again
        self.policy = PolicySync(config, file, self.sandboxes.names, *changed)
        self.holds = HoldDesk(self.policy.link, self._refuse)
        self.attached = Attachments()
        self.roster = Roster(size, config.queue.base)
        self.rules = rulekeeper.RuleKeeper(config, self.roster)
        self.watching = Watching(self.rules.port, Coalesced(self._restore_rules), Coalesced(self._reattach))
        self.journals = Journals(config, writers)
        hooks = Hooks(self._setup, self.policy.current.orders, self.holds.take_message, self._worker_gone)
        self.drops = QueueDrops()
        self.pool = Pool(size, hooks, watchdog=config.watchdog)
        self.recorder = RecorderProcess(config)
        self.attribution = AttributionProcess(config, size, self.journals.grant)
        self.server = Server(config.control_socket, self._handle)
        self._changing = asyncio.Lock()
        self._joined = Joined(self._changing, self._attach)
        self._stopping = asyncio.Event()
        self.since = time.time()
        self._rules_checked = time.monotonic()
        self._last_sandbox = time.monotonic() + IDLE_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()
        self._agents_ordered: asyncio.Task[None] | None = None
        self._complaint = Complaint()

    async def run(self) -> None:
        """Run from start to clean stop. Raises EgressError when the gateway cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._spawn_reload)
        try:
            await self._start()
            while not self._stopping.is_set():
                await self._second()
                try:
                    await asyncio.wait_for(self._stopping.wait(), SECOND)
                except TimeoutError:
                    continue
        finally:
            await self._stop()

    async def reload(self) -> dict[str, object]:
        """Read policy file and agents again. A file that is not valid changes nothing; it is the answer's `problem`."""
        problem, now = "", self.policy.current
        try:
            await self.policy.reload()
        except EgressError as error:
            problem = f"the policy in force stays: {error}"
            log.error("%s", problem)
            with contextlib.suppress(DatabaseAwayError):
                await self.policy.catch_up()  # agents, all the same
        await self._reattach()
        await self._unmarking.settled()
        log.info("reloaded: %d agents, policy version %d", len(self.roster.entries), now.version)
        return {"agents": len(self.roster.entries), "policy_version": now.version, "problem": problem}

    # --- start and stop ---------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self.config.fail_open:
            log.warning("FAIL OPEN is configured: while workers are missing or overloaded packets pass uninspected")
        self.sandboxes.clean()
        await asyncio.to_thread(self.journals.start)
        await self.policy.start()
        self.roster.replace(self._entries())
        await asyncio.to_thread(rulekeeper.require_no_other_gateway)
        await asyncio.to_thread(self.rules.install)
        self.watching.start()
        await self.attribution.watch()
        await self.pool.start()
        self.policy.follow(self.pool, self.holds)
        await self.server.start()
        await self.recorder.watch()
        names = ", ".join(self.roster.entries) or "none yet"
        version = self.policy.current.version
        systemd.notify(systemd.READY)
        log.info("guarding %s with %d workers, policy version %d", names, self.pool.size, version)

    async def _stop(self) -> None:
        systemd.notify(systemd.STOPPING)
        await self.watching.stop()
        await self.server.close()
        try:
            await asyncio.to_thread(self.rules.leave, asked=self._stopping.is_set())
        except EgressError as error:
            log.error("the kernel rules stay as they are: %s", error)
        await self.policy.stop()
        await self._attaching.stop()
        await self._joined.stop()
        await self._unmarking.stop()
        await self.pool.stop()
        self.journals.stopped(self.pool)
        await self.holds.stop()
        await self.attribution.stop()
        await self.recorder.stop()
        await self.policy.leave()

    async def _second(self) -> None:
        """Do the work of each second. A failed step is logged, and tried again in the next second."""
        systemd.notify(systemd.ALIVE)
        self.pool.watch()
        self._watch_drops()
        self.policy.check()
        trouble = ""
        steps = (
            self.recorder.watch,
            self._watch_journals,
            self.attribution.watch,
            self._watch_interfaces,
            self._keep_rules,
        )
        for step in steps:
            try:
                await step()
            except (EgressError, OSError) as error:
                trouble = str(error)
        if trouble and self._complaint.due(trouble):
            log.error("%s; trying again", trouble)
        if self.sandboxes.open:
            self._last_sandbox = time.monotonic()
        elif self.options.exit_when_idle and time.monotonic() > self._last_sandbox + SECOND:
            log.info("the last sandbox is gone")
            self._stopping.set()

    def _watch_drops(self) -> None:
        """Count the drops of each agent's queues, and have its worker record them unless it shares its interface."""
        lost = self.drops.sample({name: self.roster.queue(name) for name in self.roster.entries})
        for name in lost.keys() - self.roster.crowded():  # which of these sends too much is not known
            self.pool.post(self.roster.worker(name), "overrun", {"agent": name, "dropped": lost[name]})

    async def _watch_interfaces(self) -> None:
        """Attach agents again if their interfaces have changed; give workers the host's addresses if those have."""
        if await asyncio.to_thread(self.roster.readdress):
            self._order_agents()
        if bool(self.roster.moved()) or await asyncio.to_thread(self.attached.awaited):
            await self._reattach()

    async def _watch_journals(self) -> None:
        """Restore the journal's directory if it was deleted or changed, measure it, and grant each writer its share."""
        if wrong := await asyncio.to_thread(startup.restore_journal, self.config):
            self.journals.note_restored(wrong)
        written = self.attribution.written
        await self.journals.measure(self.pool)
        self.attribution.grant(self.journals.grant(written))

    def _worker_gone(self, index: int) -> None:
        self.holds.worker_gone(index)
        self.journals.worker_gone(index)

    async def _keep_rules(self) -> None:
        """Check our kernel rules every RULES_SECONDS, and each second while the kernel refuses a change of them."""
        if self.rules.behind or time.monotonic() - self._rules_checked >= RULES_SECONDS:
            self._rules_checked = time.monotonic()
            self._attaching.schedule()
            await self._restore_rules()

    async def _restore_rules(self) -> None:
        """Restore our kernel rules if another program has changed them."""
        async with self._changing:
            await asyncio.to_thread(self.rules.keep)

    def _spawn_reload(self) -> None:
        async def reload() -> None:
            try:
                await self.reload()
            except EgressError as error:
                log.error("%s", error)

        task = asyncio.create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the roster and the policy ------------------------------------------------------------------

    def _setup(self, index: int) -> Setup:
        """Make the setup of a worker that starts now. Its policy follows."""
        return Setup(
            config=Settings.of(self.config, privileges.users(self.config.user, "").worker),
            index=index,
            parent=os.getpid(),
            agents=self.roster.watched(index),
            journal=self.journals.grant(),
            capture=self.options.capture,
            attribution=self.attribution.end_of(index),
            nearby=self.roster.nearby,
        )

    def _entries(self) -> list[RosterEntry]:
        return [*self.attached.entries(self.policy.current.agents), *self.sandboxes.entries()]

    async def _reattach(self) -> None:
        """Run `_attach` once for all callers that wait: sandboxes that open together cost one change of the rules."""
        await self._joined.run()

    async def _attach(self) -> None:
        """Bring roster, workers and kernel rules up to date with agents and sandboxes.

        A worker gets a new agent before the agent's packets are queued, and keeps a removed one until they are not.
        """
        before, placed = self.roster.entries, self.roster.attachments()
        entries = await asyncio.to_thread(self._entries)
        names = {entry.agent.name for entry in entries}
        gone = [before[name] for name in before.keys() - names]
        self.roster.replace([*entries, *gone])
        self.roster.adopt(self._agents())
        both = self.roster.entries
        come = [both[name] for name in both.keys() - before.keys()]
        if come:
            await asyncio.to_thread(unmark.forget, come, self.config)
        if both != before:
            await self._order_agents()
        self.roster.remove(entry.agent.name for entry in gone)
        if self.roster.attachments() != placed:
            await asyncio.to_thread(self.rules.install)
        if gone:
            await self._order_agents()
            await asyncio.to_thread(unmark.forget, gone, self.config)
        if any(both[name].agent != before[name].agent for name in both.keys() & before.keys()):
            self._unmarking.schedule()

    def _agents(self) -> dict[str, Agent]:
        return {stored.agent.name: stored.agent for stored in self.policy.current.agents}

    def _agents_changed(self, before: tuple[StoredAgent, ...]) -> None:
        """Follow edits of agents: order workers now, and attach again if an agent was added, removed or moved."""
        if self.roster.adopt(self._agents()):
            self._order_agents()
            self._unmarking.schedule()
        if attachments.places(before) != attachments.places(self.policy.current.agents):
            self._attaching.schedule()

    def _order_agents(self) -> asyncio.Task[None]:
        self._agents_ordered = self.pool.order_all("agents", self.roster.order)
        return self._agents_ordered

    async def _unmark(self) -> None:
        """Clear marks that the change made outdated, once the workers have it: they judge those connections again."""
        await self.policy.applied()
        if self._agents_ordered is not None:
            await asyncio.wait([self._agents_ordered])
        entries = tuple(self.roster.entries.values())
        await asyncio.to_thread(unmark.queue_replies, entries, self.config)
        await asyncio.to_thread(unmark.clear_refusals, entries, self.config)

    def _refuse(self, index: int, holds: list[str]) -> None:
        for hold in holds:
            self.pool.post(index, "answer", {"id": hold, "action": Action.REJECT})

    # --- control ----------------------------------------------------------------------------------------

    async def _handle(self, session: Session, message: dict[str, Any]) -> dict[str, object]:
        operation = message["op"]
        if self._stopping.is_set():
            raise NotRunningError("the gateway is stopping; try again")
        if operation == "status":
            return await status.collect(self)
        if operation == "reload":
            return await self.reload()
        if operation == "resume":
            return await self._resume(str(message.get("actor")))
        if operation == "sandbox.open":
            return await self._open(session, message)
        if operation == "summary":
            name = str(message.get("agent"))
            if name not in self.roster.entries:
                raise EgressError(f"agent {name!r} is not attached; see egress agent list")
            return await self.pool.order(self.roster.worker(name), "tally", {"agent": name})
        raise EgressError(f"{operation!r} is not an operation of this gateway; use the egress command of its version")

    async def _resume(self, actor: str) -> dict[str, object]:
        """End the cut-off of agents after other programs' changes of the kernel rules; the audit entry comes first."""
        if self.rules.cut:
            await self.policy.write(
                lambda connection: audit.note(
                    connection, audit.Actor(actor), time.time(), "agents.resumed", self.config.host_name, None, None
                )
            )
        async with self._changing:
            ended = await asyncio.to_thread(self.rules.resume)
        if ended:
            log.warning("agents are guarded again: resumed by %s", actor)
        return {"resumed": ended}

    async def _open(self, session: Session, message: dict[str, Any]) -> dict[str, object]:
        """Open a sandbox, to be closed with this connection. Its link is up only once workers and rules guard it."""
        opened = await asyncio.to_thread(self.sandboxes.create, message, self.roster.entries.keys() | self._agents())
        name = opened.agent.name
        session.leases.append(lambda: self._close(name))
        stored = StoredAgent(opened.agent, SANDBOX, opened.sandbox.interface, host=self.config.host_name)
        try:
            await self.policy.write(lambda connection: policywriter.add_sandbox(connection, stored, opened.rules))
        except EgressError:
            session.leases.pop()
            await asyncio.to_thread(self.sandboxes.destroy, name)
            await self._reattach()
            raise
        await self._reattach()
        await asyncio.to_thread(self.sandboxes.connect, name)
        log.info("sandbox %s opened for pid %d", name, session.pid)
        return {"sandbox": opened.sandbox, "agent": name, "pid": os.getpid()}

    async def _close(self, name: str) -> None:
        await asyncio.to_thread(self.sandboxes.destroy, name)
        await self._reattach()  # ends its flows: their last records name the rules that applied
        try:
            await self.policy.write(
                lambda connection: policywriter.remove_sandbox(connection, self.config.host_name, name)
            )
        except DatabaseAwayError as error:
            log.warning("the rules of sandbox %s stay until the database is back: %s", name, error)
        log.info("sandbox %s is gone", name)


def run(config: Config, options: Options) -> None:
    """Run `egress gateway` until a clean stop. Raises EgressError when it cannot start."""
    checks.require(config)
    startup.prepare(config)
    with startup.only_one(config.run_dir, PATIENCE if options.exit_when_idle else 0.0):
        asyncio.run(_run(config, options))


async def _run(config: Config, options: Options) -> None:
    await Gateway(config, options).run()
