"""The base class for the processes beside the workers, recorder and attribution: start, watch, restart and stop one."""

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
    """A process that `watch` starts, and restarts when it has ended. It reports its counters on stdout as JSON lines.

    A subclass starts the process (`_start`), and may change the way it is asked to end (`_end`) and killed (`_kill`).
    """

    name = ""
    left = ""  # the rest of a log line: the fate of its work when it does not stop in time

    def __init__(self) -> None:
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._report: dict[str, Any] = {}  # the last one
        self._last_report = time.monotonic()
        self._next = 0.0

    @property
    def pid(self) -> int | None:
        """The process id; None while the process does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def silent(self) -> float:
        """Seconds since the process's last report or its start, whichever was later."""
        return time.monotonic() - self._last_report

    def status(self) -> dict[str, object]:
        """Return the state of the process, and the fields of its last report, which is `silent` seconds old."""
        return {"pid": self.pid, "restarts": self.restarts, "silent": round(self.silent, 1), **self._report}

    async def watch(self) -> None:
        """Start the process if it does not run, at most every RESTART_SECONDS. Call this about once a second.

        Raises OSError.
        """
        if self.pid is not None or time.monotonic() < self._next:
            return
        if self._process is not None:
            self.restarts += 1
            log.warning("the %s ended (status %s); it is restarted", self.name, self._process.returncode)
        self._next = time.monotonic() + RESTART_SECONDS
        self._process = await self._start()
        self._last_report = time.monotonic()
        if self._process.stdout is not None:
            self._listening = asyncio.create_task(self._listen(self._process.stdout))

    async def stop(self) -> None:
        """Ask the process to end; kill it if it has not ended after STOP_SECONDS."""
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
        """Read its reports. Lines that are not JSON are ignored."""
        while line := await stdout.readline():
            with suppress(ValueError):
                self._report = dict(json.loads(line))
                self._last_report = time.monotonic()
