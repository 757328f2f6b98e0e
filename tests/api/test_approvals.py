"""/approvals: roles that may decide, the first decision wins, and the rules that an approval makes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from sqlalchemy.engine import Engine

from egress.model import Hold
from egress.store.database.database import writing
from egress.store.policy import approvals, audit, ruleset
from tests.api.conftest import Client, assert_problem

AsRole = Callable[..., Client]
ID = "00000000000000a1"


def hold(engine: Engine, id: str = ID, agent: str = "rome-7", **fields: Any) -> None:  # noqa: A002 - its name
    now = time.time()
    wanted: dict[str, Any] = {
        "id": id, "flow_id": id, "agent": agent, "time": now, "until": now + 60, "proto": "tcp",
        "dst": "192.0.2.7", "dport": 443, "names": ("example.org",), "query": False, "destination": "example.org",
    }  # fmt: skip
    with writing(engine) as connection:
        approvals.ask(connection, Hold(**(wanted | fields)))


def in_force(engine: Engine) -> tuple[ruleset.StoredRule, ...]:
    with engine.connect() as connection:
        return ruleset.list_rules(connection, ruleset.RuleFilter(), None, 100)


TABLE = [
    ("GET", "/approvals", "viewer"),
    ("GET", f"/approvals/{ID}", "viewer"),
    ("POST", f"/approvals/{ID}/approve", "approver"),
    ("POST", f"/approvals/{ID}/deny", "approver"),
]
RANKS = ("gateway", "viewer", "approver", "editor", "admin")


def test_each_role_may_do_what_it_is_for(engine: Engine, as_role: AsRole) -> None:
    clients = {role: as_role(role) for role in RANKS}
    for method, path, lowest in TABLE:
        for role, client in clients.items():
            hold(engine)  # the newest of its id
            answer = client.request(method, path)
            if RANKS.index(role) >= RANKS.index(lowest):
                assert answer.is_success, (method, path, role, answer.text)
            else:
                assert_problem(answer, 403, detail=f"yours is {role}")


def test_another_ones_hold_is_not_there(engine: Engine, as_role: AsRole) -> None:
    hold(engine)
    hold(engine, "00000000000000b2", "ci-1")
    approver = as_role("approver", "ci-*")
    assert [each["agent"] for each in approver.get("/approvals").json()["items"]] == ["ci-1"]
    for method, path in (("GET", ""), ("POST", "/approve"), ("POST", "/deny")):
        assert_problem(approver.request(method, f"/approvals/{ID}{path}"), 404)
    assert approver.post("/approvals/00000000000000b2/deny").json()["state"] == "denied"
    assert in_force(engine) == ()


TIMES: list[tuple[object, bool, float | None]] = [  # body, once, seconds
    (None, True, None),
    ({}, True, None),
    ({"for": "once"}, True, None),
    ({"for": "forever"}, False, None),
    ({"for": "5m"}, False, 300),
    ({"for": "1d"}, False, 86400),
    ({"for": "2100-01-01T00:00:00Z"}, False, None),
]


def test_an_approval_makes_a_rule_for_exactly_that(engine: Engine, as_role: AsRole) -> None:
    approver = as_role("approver")
    for number, (body, once, lasts) in enumerate(TIMES):
        name, before = f"host{number}.example", time.time()
        hold(engine, destination=name, names=(name,))
        answer = approver.post(f"/approvals/{ID}/approve", body)
        assert answer.status_code == 200, answer.text
        made = in_force(engine)[0]  # the newest
        decided = answer.json()
        assert (decided["state"], decided["rule_id"]) == ("approved", made.rule.id)
        assert decided["decided_by"].endswith("(a approver)")
        rule = made.rule
        assert (rule.agent, rule.destination, rule.protocol, rule.ports) == ("rome-7", name, "tcp", ((443, 443),))
        assert rule.once is once
        if lasts is None:
            assert (rule.expires_at is None) == (body != {"for": "2100-01-01T00:00:00Z"})
        else:
            assert rule.expires_at is not None and before - 1e-6 <= rule.expires_at - lasts <= time.time()
        with engine.connect() as connection:
            assert {each.action for each in audit.entries(connection, limit=2)} == {"approval.approve", "rule.create"}


def test_a_bad_time_is_named(engine: Engine, root: Client) -> None:
    hold(engine)
    past, vague = "2001-01-01T00:00:00Z", "2100-01-01T00:00:00"
    for value in ("", "soon", "0m", "-5m", "5", past, vague, "9" * 65, None, 5, ["1h"]):
        assert_problem(root.post(f"/approvals/{ID}/approve", {"for": value}), 422, "#/for")
    assert root.get(f"/approvals/{ID}").json()["state"] == "pending"
    assert in_force(engine) == ()


def test_bad_requests_are_named(engine: Engine, root: Client) -> None:
    hold(engine)
    assert_problem(root.post(f"/approvals/{ID}/approve", {"until": "1h"}), 422, "#/until")
    assert_problem(root.get("/approvals/zz"), 422, "approval_id")
    assert_problem(root.get("/approvals/ff"), 404)
    assert_problem(root.get("/approvals?state=maybe"), 422, "state")
    assert_problem(root.get("/approvals?cursor=WzFd"), 400, "cursor")


def test_the_first_decision_wins(engine: Engine, as_role: AsRole) -> None:
    clients = {"approve": as_role("approver"), "deny": as_role("editor")}
    for number in range(6):
        id = f"{number:016x}"  # noqa: A001 - its name
        hold(engine, id, destination=f"host{number}.example", names=(f"host{number}.example",))
        answers: dict[str, httpx.Response] = {}
        start = threading.Barrier(2)

        def decide(verb: str, id: str = id, answers: dict[str, Any] = answers, start: Any = start) -> None:  # noqa: A002
            start.wait()
            answers[verb] = clients[verb].post(f"/approvals/{id}/{verb}")

        threads = [threading.Thread(target=decide, args=(verb,)) for verb in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(each.status_code for each in answers.values()) == [200, 409]
        won = next(verb for verb, each in answers.items() if each.status_code == 200)
        lost = answers["deny" if won == "approve" else "approve"]
        state = {"approve": "approved", "deny": "denied"}[won]
        assert_problem(lost, 409, detail=f"is already {state} by {answers[won].json()['decided_by']}")
        made = [each for each in in_force(engine) if each.rule.destination == f"host{number}.example"]
        assert len(made) == (won == "approve")


def test_too_late_is_a_conflict(engine: Engine, root: Client) -> None:
    hold(engine, until=time.time() - 1)
    assert_problem(root.post(f"/approvals/{ID}/approve"), 409, detail="no decision came in time")
    assert in_force(engine) == ()


def test_a_dry_run_decides_nothing(engine: Engine, root: Client) -> None:
    hold(engine)
    assert root.post(f"/approvals/{ID}/approve?dry_run=true").json()["state"] == "approved"
    assert root.get(f"/approvals/{ID}").json()["state"] == "pending"
    assert in_force(engine) == ()


def test_pages_and_filters(engine: Engine, root: Client) -> None:
    begun = time.time() - 100
    ids = [f"{number:016x}" for number in range(7)]
    for number, each in enumerate(ids):
        hold(engine, each, "rome-7" if number % 2 else "ci-1", time=begun + number // 2)  # two with the same time
    root.post(f"/approvals/{ids[1]}/deny")
    seen, cursor = [], None
    while True:
        page = root.get("/approvals", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [each["id"] for each in page["items"]]
        hold(engine, f"{100 + len(seen):016x}")  # newer ones arrive between two pages
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == ids[::-1]
    assert [each["id"] for each in root.get("/approvals?state=denied").json()["items"]] == [ids[1]]
    found = root.get("/approvals?agent=ci-*").json()["items"]
    assert [each["id"] for each in found] == ids[::-1][::2]
