"""Slow work in the background: however often it is asked for while it waits or runs, it runs once more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from egress.errors import EgressError

log = logging.getLogger("egress.gateway")


class Coalesced:
    """`ask()` from the event loop; `work` runs soon after, never twice at a time. What it complains about is logged."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._asked = False
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        self._asked = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def settled(self) -> None:
        """Wait until what was asked for is done."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def check(self) -> None:
        """Raise what it has failed of, beyond what is logged."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._asked:
            self._asked = False
            try:
                await self._work()
            except (EgressError, OSError) as error:
                log.error("%s", error)
