"""Start, order and stop one worker process, and read its answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from egress.errors import EgressError
from egress.gateway.kernel.command import confined
from egress.gateway.pipe.messages import Setup, encode
from egress.gateway.supervisor.current import Orders

START_SECONDS = 30.0
ORDER_SECONDS = 10.0
STOP_SECONDS = 5.0
_LINE = 1024 * 1024  # bytes of a worker's line at most

log = logging.getLogger("egress.gateway")


class WorkerProcess:
    """One process of one worker; a successor is another object. `await start()`, then `order()` while it is `alive`.

    `setup` and `policy` are the state when this object is made; later orders reach the worker after them, also while it
    still starts. `receive` gets the worker's index and each message that is not an answer, a heartbeat or about the
    start.
    """

    def __init__(self, setup: Setup, policy: Orders, receive: Callable[[int, dict[str, Any]], None]) -> None:
        self.index = setup.index
        self.started = self.last_beat = time.monotonic()
        self.counters: dict[str, Any] = {}
        self.ready = False
        self.error = ""
        self.version = policy.version  # of the policy it judges by, once it is ready
        self._setup = setup
        self._policy: Orders | None = policy
        self._receive = receive
        self._behind: list[bytes] = []  # orders that wait for the setup to be sent
        self._awaited: dict[tuple[str, int], asyncio.Future[dict[str, Any]]] = {}  # (type, number) of the answer
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True until the process has ended; call `start` first."""
        return self._process.returncode is None

    async def start(self) -> None:
        """Start the process and wait until its queues are bound. Raises EgressError with the worker's own message."""
        command, environment = confined("egress.gateway.worker")
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd="/",
            pass_fds=self._setup.attribution,
            limit=_LINE,
        )
        self._bound = asyncio.Event()
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._set_up()
                await self._bound.wait()
        except TimeoutError:
            self.error = f"it was not ready after {START_SECONDS:.0f} s"
        except ConnectionError:
            await self._bound.wait()  # it has ended, perhaps with a message
        if not self.ready:
            await self.kill()
            raise EgressError(f"worker {self.index} did not start: {self.error or 'see the lines above'}")

    async def order(self, op: str, fields: dict[str, object], seconds: float = ORDER_SECONDS) -> dict[str, Any]:
        """Give an order, wait at most `seconds` until it is carried out, and return the answer.

        Raises EgressError if the worker is gone, does not answer, or reports an error.
        """
        return await self.answer(self.post(op, fields), seconds)

    def post(self, op: str, fields: dict[str, object]) -> asyncio.Future[dict[str, Any]]:
        """Send an order now. The future gets the answer, with `error` on failure; ConnectionError: it is gone."""
        number = next(self._numbers)
        return self._post([encode({**fields, "op": op, "order": number})], ("done", number))

    def post_policy(self, orders: Orders) -> asyncio.Future[dict[str, Any]]:
        """Send a change of policy now. The future gets the answer once the change is in force, or with `error`."""
        return self._post(orders, ("policy", orders.version))

    async def answer(self, done: asyncio.Future[dict[str, Any]], seconds: float = ORDER_SECONDS) -> dict[str, Any]:
        """Wait at most `seconds` for the answer to a posted order, and return it.

        Raises EgressError if the worker is gone, does not answer, or reports an error.
        """
        try:
            answer = await asyncio.wait_for(done, seconds)
        except (TimeoutError, ConnectionError):
            raise EgressError(f"worker {self.index} does not answer; it is replaced, try again") from None
        if error := answer.get("error"):
            raise EgressError(f"worker {self.index}: {error}; it is replaced")
        return answer

    def send(self, lines: Iterable[bytes]) -> None:
        """Send orders without waiting for an answer. Raises ConnectionError when the worker is gone."""
        if self._policy is not None:
            self._behind += lines
            return
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing() or not self.alive:
            raise ConnectionResetError
        stdin.writelines(lines)

    async def stop(self) -> None:
        """Order the worker to stop; kill it if its answer or its end takes longer than STOP_SECONDS."""
        if self.alive:
            try:
                await self.order("stop", {}, STOP_SECONDS)
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except (EgressError, TimeoutError):
                log.warning("worker %d did not stop cleanly", self.index)
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and wait until it is gone: then its queues are free."""
        if self.alive:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(self._reading, return_exceptions=True)  # a broken message must not prevent its replacement

    async def _set_up(self) -> None:
        """Send setup, policy and `begin` at the pace at which they are read; then the orders that came meanwhile."""
        stdin, policy = self._process.stdin, self._policy
        assert stdin is not None and policy is not None
        for line in itertools.chain([encode(self._setup)], policy, [encode({"op": "begin"})]):
            stdin.write(line)
            await stdin.drain()
        self._policy = None
        stdin.writelines(self._behind)

    def _post(self, lines: Iterable[bytes], key: tuple[str, int]) -> asyncio.Future[dict[str, Any]]:
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._awaited[key] = done
        done.add_done_callback(lambda _: self._awaited.pop(key, None))
        try:
            self.send(lines)
        except ConnectionError as error:
            done.set_exception(error)
        return done

    async def _read(self) -> None:
        stdout = self._process.stdout
        while stdout is not None and (line := await stdout.readline()):
            self._handle(json.loads(line))
        self._bound.set()
        for waiting in tuple(self._awaited.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionResetError())

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.pop("type")
        self.last_beat = time.monotonic()
        if kind == "beat":
            self.counters = message
        elif kind == "done":
            self._answered(("done", message["order"]), message)
        elif kind == "policy":
            self._judges_by(message)
        elif kind == "ready":
            self.ready = True
            self._bound.set()
        elif kind == "error":
            self.error = message["text"]
        else:
            self._receive(self.index, {"type": kind, **message})

    def _judges_by(self, message: dict[str, Any]) -> None:
        """Take the answer to a change of policy. A worker that fails at it while it starts is killed."""
        error = message.get("error")
        if not error:
            self.version = message["version"]
        if not self._answered(("policy", message["version"]), message) and error:
            self.error = error  # the worker is starting, and must not go on without the policy
            self._process.kill()

    def _answered(self, key: tuple[str, int], message: dict[str, Any]) -> bool:
        """Pass an answer to the caller that waits for it. Returns False if there is none."""
        waiting = self._awaited.get(key)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(message)
        return True
