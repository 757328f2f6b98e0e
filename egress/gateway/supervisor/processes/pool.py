"""Start, order, watch and replace the workers. While one is gone, the kernel drops the packets queued to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egress.errors import EgressError
from egress.gateway.pipe.messages import Setup, encode
from egress.gateway.supervisor.current import Orders
from egress.gateway.supervisor.processes.worker import WorkerProcess

RESTART_SECONDS = 1.0  # between two starts of a worker that does not come up; doubled up to MAX_RESTART_SECONDS
MAX_RESTART_SECONDS = 30.0

log = logging.getLogger("egress.gateway")


@dataclass(frozen=True, slots=True)
class Hooks:
    """The supervisor's functions that a pool calls."""

    setup: Callable[[int], Setup]  # the setup of a worker that starts now
    policy: Callable[[], Orders]  # the policy it starts with
    message: Callable[[int, dict[str, Any]], None]  # a message that it sent unasked
    gone: Callable[[int], None]  # it has ended, and a successor will follow


class Pool:
    """The workers, `size` in number. Orders reach each in the order of the calls, also one that still starts.

    `watchdog`: seconds without a sign of life after which a worker is replaced. `restarts`: of each worker, so far.
    """

    def __init__(self, size: int, hooks: Hooks, *, watchdog: float) -> None:
        self.size = size
        self.restarts = [0] * size
        self._hooks, self._watchdog = hooks, watchdog
        self._successors: dict[int, WorkerProcess] = {}  # not bound yet
        self._telling: set[asyncio.Task[None]] = set()
        self._workers: list[WorkerProcess | None] = [None] * size
        self._starting: dict[int, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Start all workers. Raises EgressError, and then none runs."""
        workers = [self._new(index) for index in range(self.size)]
        results = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
        self._workers = list(workers)
        self._successors.clear()
        for result in results:
            if isinstance(result, BaseException):
                await self.stop()
                raise result

    async def stop(self) -> None:
        """Stop all workers, and give up restarts and unanswered orders."""
        for task in (*self._starting.values(), *self._telling):
            task.cancel()
        await asyncio.gather(*self._starting.values(), *self._telling, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers if worker is not None))

    async def order(self, index: int, op: str, fields: dict[str, object]) -> dict[str, Any]:
        """Give one worker an order, and wait for its answer.

        Raises EgressError if the worker is being replaced, does not answer, or reports an error.
        """
        worker = self._workers[index]
        if worker is None:
            raise EgressError(f"worker {index} is being replaced; try again")
        return await worker.order(op, fields)

    def post(self, index: int, op: str, fields: dict[str, object]) -> None:
        """Give one worker an order now, without waiting. No effect while it is being replaced."""
        if (worker := self._workers[index]) is not None:
            with contextlib.suppress(ConnectionError):
                worker.send([encode({**fields, "op": op})])

    def order_all(self, op: str, fields: Callable[[int], dict[str, object]]) -> asyncio.Task[None]:
        """Send all workers an order now; `fields(index)` makes its fields. The task ends when all have answered.

        A worker that reports an error or does not answer is replaced; its successor starts with the newest state.
        """
        for successor in self._successors.values():
            with contextlib.suppress(ConnectionError):  # it did not come up: the next one starts with the new state
                successor.send([encode({**fields(successor.index), "op": op})])
        return self._await([(worker, worker.post(op, fields(worker.index))) for worker in self._running()])

    def order_policy(self, orders: Orders) -> asyncio.Task[None]:
        """Send all workers a change of policy now. Answers and failures are handled as in `order_all`."""
        for successor in self._successors.values():
            with contextlib.suppress(ConnectionError):  # as in `order_all`
                successor.send(orders)
        return self._await([(worker, worker.post_policy(orders)) for worker in self._running()])

    def _running(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker is not None]

    def _await(self, posted: list[tuple[WorkerProcess, asyncio.Future[dict[str, Any]]]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._answered(posted))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task

    async def _answered(self, posted: list[tuple[WorkerProcess, asyncio.Future[dict[str, Any]]]]) -> None:
        results = await asyncio.gather(*(worker.answer(done) for worker, done in posted), return_exceptions=True)
        for (worker, _), result in zip(posted, results, strict=True):
            if isinstance(result, EgressError):
                log.warning("%s", result)
                self._replace(worker)
            elif isinstance(result, BaseException):
                raise result

    def watch(self) -> None:
        """Replace dead and silent workers. Call this about once a second."""
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

    def policy_version(self, newest: int) -> int:
        """Return the lowest policy version in use; `newest` for workers that are being replaced: they start with it."""
        return min([newest, *(worker.version for worker in self._workers if worker is not None)])

    def status(self) -> list[dict[str, object]]:
        """Return the state of each worker, for `egress doctor`; of one that is being replaced, `pid` is None."""
        return [self._entry(index) for index in range(self.size)]

    def _new(self, index: int) -> WorkerProcess:
        made = WorkerProcess(self._hooks.setup(index), self._hooks.policy(), self._hooks.message)
        self._successors[index] = made
        return made

    def _replace(self, worker: WorkerProcess) -> None:
        if self._workers[worker.index] is worker:
            self._workers[worker.index] = None
            self._starting[worker.index] = asyncio.create_task(self._restart(worker))

    async def _restart(self, old: WorkerProcess) -> None:
        await old.kill()
        self._hooks.gone(old.index)
        index, pause = old.index, RESTART_SECONDS
        try:
            while self._workers[index] is None:
                self.restarts[index] += 1
                successor = self._new(index)
                try:
                    await successor.start()
                except (EgressError, OSError) as error:
                    del self._successors[index]
                    log.error("%s; next try in %.0f s", error, pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, MAX_RESTART_SECONDS)
                    continue
                self._workers[index] = self._successors.pop(index)
                log.warning("worker %d runs again (pid %d)", index, successor.pid)
        finally:
            self._starting.pop(index, None)

    def _entry(self, index: int) -> dict[str, object]:
        worker = self._workers[index]
        return {
            "index": index,
            "pid": None if worker is None else worker.pid,
            "alive": worker is not None and worker.alive,
            "silent": None if worker is None else round(time.monotonic() - worker.last_beat, 1),
            "restarts": self.restarts[index],
            "policy_version": None if worker is None else worker.version,
            "counters": {} if worker is None else worker.counters,
        }
