"""The processes beside the workers: started, heard, started again, stopped. The recorder is one of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress
from typing import Any

RESTART_SECONDS = 5.0
STOP_SECONDS = 10.0

log = logging.getLogger("egress.gateway")


class Companion:
    """A process beside the workers, started again when it ends. `_start` says how; it says each second how it is."""

    name = ""
    left = ""  # what becomes of its work when it does not stop in time

    def __init__(self) -> None:
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._facts: dict[str, Any] = {}  # what it said last
        self._heard = time.monotonic()
        self._next = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def silent(self) -> float:
        """Seconds since it last said something, or was started."""
        return time.monotonic() - self._heard

    def status(self) -> dict[str, object]:
        """How it is, as it said `silent` seconds ago."""
        return {"pid": self.pid, "restarts": self.restarts, "silent": round(self.silent, 1), **self._facts}

    async def watch(self) -> None:
        """Start it if it does not run; call it about each second."""
        if self.pid is not None or time.monotonic() < self._next:
            return
        if self._process is not None:
            self.restarts += 1
            log.warning("the %s ended (status %s); it is started again", self.name, self._process.returncode)
        self._next = time.monotonic() + RESTART_SECONDS
        self._process = await self._start()
        self._heard = time.monotonic()
        if self._process.stdout is not None:
            self._listening = asyncio.create_task(self._listen(self._process.stdout))

    async def stop(self) -> None:
        """Let it end its work, within STOP_SECONDS."""
        if self._process is None or self.pid is None:
            return
        self._end(self._process)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("the %s did not stop in time; %s", self.name, self.left)
            await self._kill(self._process)

    async def _start(self) -> asyncio.subprocess.Process:
        raise NotImplementedError

    def _end(self, process: asyncio.subprocess.Process) -> None:
        process.terminate()

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        process.kill()
        await process.wait()

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        """What cannot be read of what it says is passed over."""
        while line := await stdout.readline():
            with suppress(ValueError):
                self._facts = dict(json.loads(line))
                self._heard = time.monotonic()
