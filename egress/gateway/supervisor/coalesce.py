"""Runs slow work in the background: however often it is scheduled during a run, it runs only once more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from egress.errors import EgressError

log = logging.getLogger("egress.gateway")


class Coalesced:
    """Runs `work` soon after `schedule()` on the event loop, one run at a time. EgressError and OSError are logged."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None

    def schedule(self) -> None:
        self._scheduled = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def settled(self) -> None:
        """Wait until the scheduled work is done, or has failed."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def check(self) -> None:
        """Raise the exception that ended the last run, if one did. EgressError and OSError end none."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
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
