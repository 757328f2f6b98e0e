"""Run slow work that many callers request: all requests during one run are served by one further run.

`Coalesced` runs it in the background, `Joined` for callers that wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from egress.errors import EgressError

log = logging.getLogger("egress.gateway")


class Coalesced:
    """Runs `work` in a task after `schedule()`, one run at a time. EgressError and OSError are logged."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None

    def schedule(self) -> None:
        """Have the work run: soon, or again after the run under way."""
        self._scheduled = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def settled(self) -> None:
        """Wait until all scheduled work is done, or has failed. Never raises its exception."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def check(self) -> None:
        """Raise the exception that ended the task, if one did; never EgressError or OSError, which are only logged."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """Cancel the run under way and the scheduled one."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._scheduled:
            self._scheduled = False
            try:
                await self._work()
            except (EgressError, OSError) as error:
                log.error("%s", error)


class Joined:
    """Runs `work` for callers that wait, one run at a time, and holds `lock` during each run.

    A caller waits for a run that begins after its call, and gets the exception of that run. Callers share it.
    """

    def __init__(self, lock: asyncio.Lock, work: Callable[[], Awaitable[None]]) -> None:
        self._lock, self._work = lock, work
        self._next: asyncio.Task[None] | None = None  # waits for its turn
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Wait until a run has begun and ended. If a caller is cancelled, the run goes on."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._tasks.add(self._next)
            self._next.add_done_callback(self._ended)
        await asyncio.shield(self._next)

    async def stop(self) -> None:
        """Cancel all runs; callers that wait get CancelledError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        async with self._lock:
            self._next = None
            await self._work()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._next is task:  # cancelled before its turn
            self._next = None
        if not task.cancelled():
            task.exception()  # callers get it themselves; unread, asyncio would log it if there is no caller
