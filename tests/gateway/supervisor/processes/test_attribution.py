"""The attribution process as the supervisor sees it, where the kernel does not let it end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from egress.config import Config
from egress.gateway.pipe.messages import JournalGrant
from egress.gateway.supervisor.processes import attribution, companion
from egress.gateway.supervisor.processes.attribution import MAX_LEFT, AttributionProcess
from tests.lab.net import needs_root

HOLD = """
import ctypes, sys
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0  # PTRACE_SEIZE
print(flush=True)
sys.stdin.read()
"""


class Silent(AttributionProcess):
    """A real process that reports nothing, and ends when its input does."""

    def __init__(self) -> None:
        super().__init__(Config(), 0, lambda: JournalGrant(1, False))
        self.started: list[asyncio.subprocess.Process] = []

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        self.started.append(await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe))
        return self.started[-1]

    async def end_all(self) -> None:
        """Stop, and wait for all processes, also those left behind."""
        await self.stop()
        await asyncio.gather(*(each.wait() for each in self.started))


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Trace a process: after a kill it stays until released, like one whose thread waits in the kernel."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(pid)], stdin=pipe, stdout=pipe) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline()
        yield
        tracer.communicate()


@needs_root
def test_one_that_cannot_be_ended_is_left_behind_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "KILL_SECONDS", 0.05)
    monkeypatch.setattr(attribution, "START_SECONDS", -1.0)
    monkeypatch.setattr(companion, "RESTART_SECONDS", -1.0)

    async def scenario() -> None:
        process = Silent()
        await process.watch()
        first = process.pid
        assert first is not None
        with held(first):
            await process.watch()
            assert process.pid not in (None, first) and process.restarts == 1
            await process.watch()  # the second can be ended
            assert process.pid not in (None, first) and process.restarts == 2
        await process.end_all()

    asyncio.run(scenario())


@needs_root
def test_only_so_many_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "KILL_SECONDS", 0.05)
    monkeypatch.setattr(attribution, "START_SECONDS", -1.0)
    monkeypatch.setattr(companion, "RESTART_SECONDS", -1.0)

    async def leave(process: Silent, count: int) -> None:
        if not count:
            assert process.pid is None
            await process.watch()
            assert process.pid is None, "no more are started"
            return
        assert process.pid is not None
        with held(process.pid):
            await process.watch()
            await leave(process, count - 1)

    async def scenario() -> None:
        process = Silent()
        await process.watch()
        await leave(process, MAX_LEFT)
        while process.pid is None:  # they have ended; asyncio notices it a moment later
            await asyncio.sleep(0.01)
            await process.watch()
        await process.end_all()

    asyncio.run(scenario())
