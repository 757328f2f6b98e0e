"""Drops of queues over several bindings: from the kernel's table, as a file of its format."""

from __future__ import annotations

from pathlib import Path

from egress.gateway.supervisor.queuedrops import QueueDrops


def test_drops_are_counted_over_bindings_and_forgotten_with_the_agent(tmp_path: Path) -> None:
    table = tmp_path / "nfnetlink_queue"
    counted = QueueDrops(table)

    def kernel(*rows: tuple[int, int, int]) -> None:
        table.write_text("".join(f"{number} 31 0 2 65531 {full} {sock} 9 1\n" for number, full, sock in rows))

    agents = {"a": 7400, "b": 7402}
    assert counted.sample(agents) == {}, "no queue is bound yet"
    kernel((7400, 3, 0), (7401, 0, 2), (7402, 0, 0))
    assert counted.sample(agents) == {"a": 5}
    assert counted.sample(agents) == {}, "nothing new"
    kernel((7400, 1, 0), (7401, 0, 2))  # bound again: the kernel counts from zero
    assert counted.sample(agents) == {"a": 1}
    assert counted.status(7400) == {"full": {"queue": 4, "socket": 0}, "settled": {"queue": 0, "socket": 2}}
    kernel((7400, 9, 0))
    assert counted.sample({"b": 7402}) == {}
    assert counted.sample({"c": 7400}) == {"c": 9}, "what the kernel counts since the queue was bound for another agent"
