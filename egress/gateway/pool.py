"""The workers together: started, told, watched, replaced. While one is gone the kernel drops what is queued to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from egress.errors import EgressError
from egress.gateway.messages import Setup
from egress.gateway.process import WorkerProcess
from egress.gateway.queue import Drops, drops

RESTART_SECONDS = 1.0  # between two starts of a worker that does not come up; doubled up to the next
MAX_RESTART_SECONDS = 30.0

log = logging.getLogger("egress.gateway")


class Pool:
    """`size` workers. `setup(index)` says how each is to be started now."""

    def __init__(self, size: int, setup: Callable[[int], Setup], *, base: int, watchdog: float) -> None:
        self.size = size
        self.restarts = [0] * size
        self._setup, self._base, self._watchdog = setup, base, watchdog
        self._workers: list[WorkerProcess | None] = [None] * size
        self._starting: dict[int, asyncio.Task[None]] = {}
        self._earlier: dict[int, Drops] = {}  # drops of queues whose worker is gone
        self._now: dict[int, Drops] = {}

    async def start(self) -> None:
        """All of them, or EgressError and none."""
        workers = [WorkerProcess(self._setup(index)) for index in range(self.size)]
        results = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
        self._workers = list(workers)
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self) -> None:
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers if worker is not None))

    async def order(self, index: int, op: str, fields: dict[str, object]) -> dict[str, Any]:
        """Tell one worker. Raises EgressError while it is being replaced."""
        worker = self._workers[index]
        if worker is None:
            raise EgressError(f"worker {index} is being replaced; try again")
        return await worker.order(op, fields)

    async def tell(self, op: str, fields: Callable[[int], dict[str, object]]) -> None:
        """Tell all. One that cannot be told is replaced: its successor is started with what is true then."""
        present = [worker for worker in self._workers if worker is not None]
        results = await asyncio.gather(
            *(worker.order(op, fields(worker.index)) for worker in present), return_exceptions=True
        )
        for worker, result in zip(present, results, strict=True):
            if isinstance(result, EgressError):
                log.warning("%s", result)
                self._replace(worker)
            elif isinstance(result, BaseException):
                raise result

    def watch(self) -> None:
        """Replace the dead and the silent; call it about each second."""
        self._sample()
        for worker in self._workers:
            if worker is None or worker.index in self._starting:
                continue
            silent = time.monotonic() - worker.last_beat
            if not worker.alive:
                log.warning(
                    "worker %d (pid %d) died; it is replaced, its agents are cut off meanwhile",
                    worker.index,
                    worker.pid,
                )
                self._replace(worker)
            elif silent > self._watchdog:
                log.warning(
                    "worker %d (pid %d) gave no sign of life for %.0f s; it is replaced",
                    worker.index,
                    worker.pid,
                    silent,
                )
                self._replace(worker)

    def status(self) -> list[dict[str, object]]:
        """One entry a worker, for `status`."""
        return [self._entry(index) for index in range(self.size)]

    def _replace(self, worker: WorkerProcess) -> None:
        if worker.index not in self._starting:
            self._workers[worker.index] = None
            self._starting[worker.index] = asyncio.create_task(self._restart(worker))

    async def _restart(self, old: WorkerProcess) -> None:
        await old.kill()
        index, pause = old.index, RESTART_SECONDS
        try:
            while self._workers[index] is None:
                self.restarts[index] += 1
                successor = WorkerProcess(self._setup(index))
                try:
                    await successor.start()
                except (EgressError, OSError) as error:
                    log.error("%s; next try in %.0f s", error, pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, MAX_RESTART_SECONDS)
                    continue
                self._workers[index] = successor
                log.warning("worker %d runs again (pid %d)", index, successor.pid)
        finally:
            self._starting.pop(index, None)

    def _sample(self) -> None:
        """The kernel counts a queue's drops from its binding: what a gone queue counted is kept here."""
        current = drops()
        for number, before in self._now.items():
            after = current.get(number, Drops(0, 0))
            if after.queue < before.queue or after.socket < before.socket:
                kept = self._earlier.get(number, Drops(0, 0))
                self._earlier[number] = Drops(kept.queue + before.queue, kept.socket + before.socket)
        self._now = current

    def _dropped(self, number: int) -> dict[str, int]:
        now, earlier = self._now.get(number, Drops(0, 0)), self._earlier.get(number, Drops(0, 0))
        return {"queue": now.queue + earlier.queue, "socket": now.socket + earlier.socket}

    def _entry(self, index: int) -> dict[str, object]:
        worker = self._workers[index]
        full = self._base + 2 * index
        return {
            "index": index,
            "pid": None if worker is None else worker.pid,
            "alive": worker is not None and worker.alive,
            "silent": None if worker is None else round(time.monotonic() - worker.last_beat, 1),
            "restarts": self.restarts[index],
            "queues": [full, full + 1],
            "dropped": {"full": self._dropped(full), "settled": self._dropped(full + 1)},
            "counters": {} if worker is None else worker.counters,
        }
