"""Slow work in the background: requests during a run cause one more run; errors are logged."""

from __future__ import annotations

import asyncio

import pytest

from egress.errors import EgressError
from egress.gateway.supervisor.coalesce import Coalesced


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
