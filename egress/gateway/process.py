"""How the gateway starts its own Python processes, and the worker process as the supervisor sees it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import egress
from egress.errors import EgressError
from egress.gateway.messages import Setup, encode

START_SECONDS = 30.0
ORDER_SECONDS = 10.0
STOP_SECONDS = 5.0
_LINE = 1024 * 1024  # bytes of a worker's line at most

log = logging.getLogger("egress.gateway")


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of one of our modules: imported from where we were, not from the cwd."""
    root = str(Path(egress.__file__).resolve().parent.parent)
    return [sys.executable, "-m", module], {**os.environ, "PYTHONPATH": root, "PYTHONSAFEPATH": "1"}


class WorkerProcess:
    """One start of one worker. `await start()`, then `order()` until `alive` is False."""

    def __init__(self, setup: Setup) -> None:
        self.index = setup.index
        self.started = self.last_beat = time.monotonic()
        self.counters: dict[str, Any] = {}
        self.ready = False
        self.error = ""
        self._setup = setup
        self._orders: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def start(self) -> None:
        """Spawn it and wait until its queues are bound. Raises EgressError with the worker's own words if it cannot."""
        command, environment = python("egress.gateway.worker")
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd="/",
            limit=_LINE,
        )
        self._bound = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        self._send(encode(self._setup))
        try:
            await asyncio.wait_for(self._bound.wait(), START_SECONDS)
        except TimeoutError:
            self.error = f"it was not ready after {START_SECONDS:.0f} s"
        if not self.ready:
            await self.kill()
            raise EgressError(f"worker {self.index} did not start: {self.error or 'see the lines above'}")

    async def order(self, op: str, fields: dict[str, object], seconds: float = ORDER_SECONDS) -> dict[str, Any]:
        """Give an order and wait until it is carried out. Raises EgressError when the worker is gone or silent."""
        number = next(self._numbers)
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._orders[number] = done
        try:
            self._send(encode({**fields, "op": op, "seq": number}))
            return await asyncio.wait_for(done, seconds)
        except (TimeoutError, ConnectionError):
            raise EgressError(f"worker {self.index} does not answer; it is replaced, try again") from None
        finally:
            self._orders.pop(number, None)

    async def stop(self) -> None:
        """Stop in order, within STOP_SECONDS; then by force."""
        if self.alive:
            try:
                await self.order("stop", {}, STOP_SECONDS)
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except (EgressError, TimeoutError):
                log.warning("worker %d did not stop in order", self.index)
        await self.kill()

    async def kill(self) -> None:
        """End this process, by its id, and wait until it is gone: its queues are free then."""
        if self.alive:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(
            self._reading, return_exceptions=True
        )  # nonsense from it must not keep us from replacing it

    def _send(self, line: bytes) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing() or not self.alive:
            raise ConnectionResetError
        stdin.write(line)

    async def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (line := await stdout.readline()):
            self._heard(json.loads(line))
        self._bound.set()
        for waiting in self._orders.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError())

    def _heard(self, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        self.last_beat = time.monotonic()
        if kind == "beat":
            self.counters = message
        elif kind == "done":
            waiting = self._orders.get(message["seq"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif kind == "ready":
            self.ready = True
            self._bound.set()
        elif kind == "error":
            self.error = message["text"]
