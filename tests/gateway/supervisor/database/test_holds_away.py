"""Holds while the database is away: an agent that goes on asking fills no memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from egress.gateway.supervisor.database.holds import HoldDesk
from tests.gateway.supervisor.database.test_holds import Desk, asks, ends


def test_what_was_refused_unasked_leaves_nothing_behind(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "egress.db")

    async def run() -> tuple[int, int]:
        holds = HoldDesk(desk.link, lambda worker, ids: desk.refused.append((worker, sorted(ids))))
        asks(0, "before")(holds)
        await holds.written()
        desk.path.rename(desk.path.with_name("hidden"))
        desk.link.changed()
        ends(0, "before", "expired")(holds)
        asks(0, "before")(holds)
        await holds.written()
        ends(0, "before", "denied")(holds)
        for number in range(50):
            asks(0, f"h{number}")(holds)
            await holds.written()
            ends(0, f"h{number}", "denied")(holds)
            await holds.written()
        left = len(holds._unwritten)
        desk.path.with_name("hidden").rename(desk.path)
        desk.link.open(create=False)
        holds.catch_up()
        await holds.written()
        return left, len(holds.pending)

    left, pending = asyncio.run(run())
    assert (left, pending) == (1, 0)
    assert desk.states() == {"before": "expired"}
