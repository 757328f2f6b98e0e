"""The gateway in the foreground: workers, kernel rules, recorder, control socket; started, kept up, stopped in order.

Rules go in only once every worker is bound. Whatever fails later fails closed: a queue without its worker drops, and
only a stop that was asked for takes rules away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress.config import Config
from egress.errors import EgressError
from egress.gateway import aftermath, checks, rules, runtime
from egress.gateway.control import NotRunning, Server, Session
from egress.gateway.messages import Setup
from egress.gateway.policies import Policies
from egress.gateway.pool import Pool
from egress.gateway.queue import drops
from egress.gateway.roster import Entry, Roster
from egress.gateway.sandboxes import Sandboxes
from egress.gateway.stored import Stored
from egress.model import Agent

SECOND = 1.0
RULES_SECONDS = 2.0  # between two looks whether our kernel rules are still in place
IDLE_SECONDS = 15.0  # a gateway that ends when idle waits this long for its first sandbox
SAY_SECONDS = 30.0  # between two complaints of the same
PATIENCE = 10.0  # and this long for a predecessor that is ending
LEAVING_SECONDS = 2.0  # how long the workers of a gateway that was killed may take to be gone

log = logging.getLogger("egress.gateway")


@dataclass(frozen=True, slots=True)
class Options:
    """What `egress gateway` was asked for beyond its config."""

    policy: Path | None = None
    capture: str = ""
    exit_when_idle: bool = False


class Gateway:
    """One run of the gateway. All changes of who is watched, and by which policy, pass `_changing`, one at a time."""

    def __init__(self, config: Config, options: Options) -> None:
        self.config = config
        self.options = options
        size = config.workers or os.cpu_count() or 1
        self.policies = Policies(config, options.policy)
        self.stored = Stored(config)
        self.roster = Roster(size)
        self.sandboxes = Sandboxes(config)
        self.pool = Pool(size, self._setup, base=config.queue.base, watchdog=config.watchdog)
        self.recorder = runtime.Recorder(config)
        self.server = Server(config.control_socket, self._handle)
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._started = time.time()
        self._rules_checked = time.monotonic()
        self._last_sandbox = time.monotonic() + IDLE_SECONDS
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble, self._said = "", 0.0
        self._installing = threading.Lock()
        self._guarding = self._ended = False  # our rules are in; they are not to be put in any more

    async def run(self) -> None:
        """From start to clean stop. Raises EgressError when it cannot start."""
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
        """Read policy and agents again; a broken file leaves what is in force, and is said. Workers get both."""
        async with self._changing:
            problem = ""
            try:
                if await asyncio.to_thread(self.policies.reload):
                    await self._tell_policy()
                    await asyncio.to_thread(aftermath.pardon, self.roster.entries.values(), self.config)
            except EgressError as error:
                problem = f"the policy in force stays: {error}"
                log.error("%s", problem)
            await self._attach()
        log.info("reloaded: %d agents, policy version %d", len(self.roster.entries), self.policies.current.version)
        return {"agents": len(self.roster.entries), "policy_version": self.policies.current.version, "problem": problem}

    # --- start and stop ---------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self.config.fail_open:
            log.warning("FAIL OPEN is configured: while workers are missing or overloaded packets pass uninspected")
        self.sandboxes.clean()
        self.policies.load(self.stored.open())
        self.roster.replace(self._entries())
        await asyncio.to_thread(alone)
        await self.pool.start()
        await asyncio.to_thread(self._install)
        await self.server.start()
        await self.recorder.watch()
        names = ", ".join(self.roster.entries) or "none yet"
        log.info("guarding %s with %d workers, policy version %d", names, self.pool.size, self.policies.current.version)

    async def _stop(self) -> None:
        await self.server.close()
        try:
            await asyncio.to_thread(self._leave, asked=self._stopping.is_set())
        except EgressError as error:
            log.error("the kernel rules stay as they are: %s", error)
        await self.pool.stop()
        await self.recorder.stop()
        self.stored.close()

    def _leave(self, *, asked: bool) -> None:
        """What becomes of the kernel rules. Of a failure nobody is set free, whoever's rules they are."""
        left = ", ".join(entry.agent.name for entry in self.roster.entries.values())
        with self._installing:
            self._ended = True  # a change that is under way must not bring them back
            if asked and left and self.config.on_stop == "block":
                rules.block(self.roster.attachments(self.config), self.config)
                log.warning("stopped: blocked until the gateway runs again: %s", left)
            elif asked or (self._guarding and not left):
                rules.remove(self.config)
                if left:
                    log.warning("stopped: STILL ATTACHED AND UNGUARDED: %s", left)
            elif self._guarding:
                log.error("the kernel rules stay: cut off until the gateway runs again: %s", left)

    async def _second(self) -> None:
        """What is done each second. What cannot be done now is said and tried again: the gateway stays."""
        self.pool.watch()
        trouble = ""
        for step in (self.recorder.watch, self._follow, self._keep_rules):
            try:
                await step()
            except (EgressError, OSError) as error:
                trouble = str(error)
        if trouble and (trouble != self._trouble or time.monotonic() > self._said + SAY_SECONDS):
            log.error("%s; it is tried again", trouble)
            self._trouble, self._said = trouble, time.monotonic()
        if self.sandboxes.open:
            self._last_sandbox = time.monotonic()
        elif self.options.exit_when_idle and time.monotonic() > self._last_sandbox + SECOND:
            log.info("the last sandbox is gone")
            self._stopping.set()

    async def _follow(self) -> None:
        """Interfaces come and go."""
        if bool(self.roster.moved()) or await asyncio.to_thread(self.stored.awaited):
            async with self._changing:
                await self._attach()

    async def _keep_rules(self) -> None:
        """Others may put their rules before ours, or flush them."""
        if time.monotonic() - self._rules_checked < RULES_SECONDS:
            return
        self._rules_checked = time.monotonic()
        async with self._changing:
            if not await asyncio.to_thread(self._installed):
                log.warning("somebody changed the kernel rules: ours are installed again")
                await asyncio.to_thread(self._install)

    def _install(self) -> None:
        with self._installing:
            if not self._ended:
                self._guarding = True
                rules.install(self.roster.attachments(self.config), self.config)

    def _installed(self) -> bool:
        return rules.installed(self.config, self.roster.attachments(self.config))

    def _spawn_reload(self) -> None:
        async def reload() -> None:
            try:
                await self.reload()
            except EgressError as error:
                log.error("%s", error)

        task = asyncio.create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- who is watched, by which policy ----------------------------------------------------------------

    def _setup(self, index: int) -> Setup:
        """How a worker is started now."""
        return Setup(
            config=self.config,
            index=index,
            parent=os.getpid(),
            agents=self.roster.watched(index),
            policy=self.policies.current,
            capture=self.options.capture,
        )

    def _entries(self) -> list[Entry]:
        return [*self.stored.entries(), *self.sandboxes.entries()]

    async def _attach(self) -> None:
        """Make workers and kernel agree with who is there now: a worker knows agents before they are queued to it."""
        before = self.roster.entries
        self.roster.replace(await asyncio.to_thread(self._entries))
        after = self.roster.entries
        gone = [before[name] for name in before.keys() - after.keys()]
        come = [after[name] for name in after.keys() - before.keys()]
        changed = [after[name] for name in after.keys() & before.keys() if after[name].agent != before[name].agent]
        await asyncio.to_thread(aftermath.forget, come, self.config)
        if gone:
            await asyncio.to_thread(self._install)
        await self.pool.tell("agents", lambda index: {"agents": self.roster.watched(index)})
        if not gone:
            await asyncio.to_thread(self._install)
        await asyncio.to_thread(aftermath.forget, gone, self.config)
        await asyncio.to_thread(aftermath.pardon, changed, self.config)

    async def _tell_policy(self) -> None:
        await self.pool.tell("policy", lambda _: {"policy": self.policies.current})

    # --- control ----------------------------------------------------------------------------------------

    async def _handle(self, session: Session, message: dict[str, Any]) -> dict[str, object]:
        operation = message["op"]
        if self._stopping.is_set():
            raise NotRunning("the gateway is stopping; try again")
        if operation == "status":
            return await self._status()
        if operation == "reload":
            return await self.reload()
        if operation == "sandbox.open":
            return await self._open(session, message)
        if operation == "summary":
            name = str(message.get("agent"))
            if name not in self.roster.entries:
                raise EgressError(f"no agent {name!r} is watched; see egress agent list")
            return await self.pool.order(self.roster.worker(name), "tally", {"agent": name})
        raise EgressError(f"the gateway knows no operation {operation!r}; use the egress command of its version")

    async def _open(self, session: Session, message: dict[str, Any]) -> dict[str, object]:
        """A sandbox leased to this connection."""
        async with self._changing:
            opened = await asyncio.to_thread(self.sandboxes.create, message, set(self.roster.entries))
            name = opened.agent.name
            session.leases.append(lambda: self._close(name))
            if opened.rules:
                await asyncio.to_thread(self.policies.add, name, opened.rules)
                await self._tell_policy()
            await self._attach()
        log.info("sandbox %s opened for pid %d", name, session.pid)
        return {"sandbox": opened.sandbox, "agent": name}

    async def _close(self, name: str) -> None:
        async with self._changing:
            await asyncio.to_thread(self.sandboxes.destroy, name)
            await self._attach()  # ends its flows: their last records name the rules they lived by
            if await asyncio.to_thread(self.policies.discard, name):
                await self._tell_policy()
        log.info("sandbox %s is gone", name)

    async def _status(self) -> dict[str, object]:
        counters, in_place = await asyncio.to_thread(lambda: (rules.counters(), self._installed()))
        return {
            "pid": os.getpid(),
            "since": self._started,
            "fail_open": self.config.fail_open,
            "policy_version": self.policies.current.version,
            "workers": self.pool.status(),
            "agents": [self._agent(entry) for entry in self.roster.entries.values()],
            "absent": self.stored.absent,
            "recorder": {"pid": self.recorder.pid, "restarts": self.recorder.restarts},
            "rules": counters,
            "rules_in_place": in_place,
        }

    def _agent(self, entry: Entry) -> dict[str, object]:
        agent: Agent = entry.agent
        return {
            "name": agent.name,
            "interface": entry.interface,
            "networks": agent.networks,
            "mode": agent.mode,
            "default": agent.default,
            "worker": self.roster.worker(agent.name),
            "sandbox": agent.name in self.sandboxes.open,
        }


def alone() -> None:
    """Raise EgressError while another gateway's workers read the queues that the kernel rules lead to.

    Chains have one name for all: two gateways, each with a run_dir of its own, would replace each other's rules.
    """
    deadline = time.monotonic() + LEAVING_SECONDS
    while read := rules.queues() & drops().keys():
        if time.monotonic() > deadline:
            raise EgressError(
                f"another gateway guards this network namespace (it reads queue {min(read)}): stop it first"
            )
        time.sleep(0.1)


def run(config: Config, options: Options) -> None:
    """`egress gateway`: returns after a clean stop. Raises EgressError when it cannot start."""
    checks.require(config)
    runtime.prepare(config)
    with runtime.only_one(config.run_dir, PATIENCE if options.exit_when_idle else 0.0):
        asyncio.run(_run(config, options))


async def _run(config: Config, options: Options) -> None:
    await Gateway(config, options).run()
