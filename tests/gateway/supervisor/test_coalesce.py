"""Slow work that many ask for: requests during a run cause one more run; errors are logged, or raised."""

from __future__ import annotations

import asyncio

import pytest

from egress.errors import EgressError
from egress.gateway.supervisor.coalesce import Coalesced, Joined


def test_requests_during_a_run_are_one_more_run() -> None:
    async def scenario() -> list[str]:
        steps: list[str] = []
        go = asyncio.Event()

        async def work() -> None:
            steps.append("begin")
            await go.wait()
            steps.append("end")

        work_once = Coalesced(work)
        work_once.schedule()
        await asyncio.sleep(0)
        for _ in range(5):
            work_once.schedule()
        go.set()
        await work_once.settled()
        return steps

    assert asyncio.run(scenario()) == ["begin", "end", "begin", "end"]


def test_an_error_is_logged_and_the_next_request_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> int:
        runs = 0

        async def work() -> None:
            nonlocal runs
            runs += 1
            raise EgressError(f"failure {runs}")

        again = Coalesced(work)
        for _ in range(2):
            again.schedule()
            await again.settled()
            again.check()
        return runs

    assert asyncio.run(scenario()) == 2
    assert caplog.messages == ["failure 1", "failure 2"]


def test_a_bug_is_raised_by_check() -> None:
    async def scenario() -> None:
        async def work() -> None:
            raise ValueError("a bug")

        broken = Coalesced(work)
        broken.check()  # no run was requested yet
        broken.schedule()
        await broken.settled()
        broken.check()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(scenario())


def test_stop_cancels_what_runs() -> None:
    async def scenario() -> bool:
        ended = False

        async def work() -> None:
            nonlocal ended
            await asyncio.sleep(60)
            ended = True

        stopped = Coalesced(work)
        stopped.schedule()
        await asyncio.sleep(0)
        await stopped.stop()
        stopped.check()
        return ended

    assert asyncio.run(scenario()) is False


def test_callers_share_a_run_that_begins_after_their_call() -> None:
    async def scenario() -> list[str]:
        steps: list[str] = []
        go = asyncio.Event()

        async def work() -> None:
            steps.append("begin")
            await go.wait()
            steps.append("end")

        async def caller(name: str) -> None:
            await joined.run()
            steps.append(name)

        joined = Joined(asyncio.Lock(), work)
        first = asyncio.create_task(caller("first"))
        while not steps:
            await asyncio.sleep(0)
        others = [asyncio.create_task(caller(name)) for name in ("second", "third")]
        gone = asyncio.create_task(caller("cancelled"))
        await asyncio.sleep(0)
        gone.cancel()
        go.set()
        await asyncio.gather(first, *others, gone, return_exceptions=True)
        return steps

    steps = asyncio.run(scenario())
    assert [step for step in steps if step in ("begin", "end")] == ["begin", "end"] * 2
    assert steps.index("first") < steps.index("second") and steps[-2:] == ["second", "third"]


def test_every_caller_gets_the_exception_and_the_next_run_is_clean() -> None:
    async def scenario() -> list[object]:
        runs = 0

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise EgressError("refused")

        joined = Joined(asyncio.Lock(), work)
        both = await asyncio.gather(joined.run(), joined.run(), return_exceptions=True)
        await joined.run()
        return [*map(str, both), runs]

    assert asyncio.run(scenario()) == ["refused", "refused", 2]


def test_a_joined_run_waits_for_the_lock_and_stop_ends_it() -> None:
    async def scenario() -> tuple[bool, bool]:
        lock, ran = asyncio.Lock(), False

        async def work() -> None:
            nonlocal ran
            ran = True

        joined = Joined(lock, work)
        async with lock:
            waiting = asyncio.create_task(joined.run())
            await asyncio.sleep(0)
            await joined.stop()
            await asyncio.wait([waiting])
        stopped = waiting.cancelled() and not ran
        await joined.run()
        return stopped, ran

    assert asyncio.run(scenario()) == (True, True)
