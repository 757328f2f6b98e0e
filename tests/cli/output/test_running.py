"""Checks of a running gateway, from statuses as the gateway reports them. Its kernel rules are checked in the lab."""

from __future__ import annotations

from typing import Any

from egress.cli.output import running

NONE = {"full": {"queue": 0, "socket": 0}, "settled": {"queue": 0, "socket": 0}}


def worker(**counters: object) -> dict[str, Any]:
    known = {"packets": 7, "settled_packets": 5, "journal": {"healthy": True}, "confined": True, "unbound": {}}
    return {"index": 0, "pid": 12, "alive": True, "restarts": 1, "counters": known | counters}


def failed(entry: dict[str, Any]) -> list[str]:
    return [f"{check.name}: {check.text}" for check in running.worker(entry, "refuse") if not check.ok]


def test_a_worker_is_well_or_each_of_its_faults_is_named() -> None:
    assert failed(worker()) == []
    assert "12 packets" in running.worker(worker(), "refuse")[0].text
    (dead,) = failed(worker() | {"alive": False})
    assert "its agents are cut off" in dead
    (unbound,) = failed(worker(unbound={"7402": "cannot bind netfilter queue 7402"}))
    assert "agents are cut off: cannot bind netfilter queue 7402" in unbound
    (journal,) = failed(worker(journal={"healthy": False, "error": "no space"}))
    assert "no space" in journal and "new flows are refused" in journal
    assert len(failed(worker(confined=False, engine_errors=3))) == 2


def test_only_an_agent_that_overran_its_queues_is_named() -> None:
    quiet, loud = (
        {"name": "by", "dropped": NONE},
        {"name": "red", "dropped": NONE | {"full": {"queue": 9, "socket": 2}}},
    )
    (fine,) = running.drops([quiet])
    assert fine.ok
    (check,) = running.drops([quiet, loud])
    assert not check.ok and check.name == "queues of red" and "11 packets" in check.text
