"""/simulate: a candidate policy over stored flows; all its errors are listed, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from egress.model import Agent, Reason
from egress.store.database.database import writing
from egress.store.policy import agents, audit
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from egress.store.recording.writer import store
from tests.api.conftest import Client, assert_problem
from tests.whatif.recording import finding, flow, refused, tls

AsRole = Callable[..., Client]
YAML = {"content": b"rules:\n- action: allow\n  destination: a.example\n", "headers": {"Content-Type": "text/yaml"}}


@pytest.fixture
def lived(engine: Engine) -> Engine:
    """Stored flows of an hour ago: `trainer` reached a.example thrice, b.example once, not c.example, and mined."""
    ago: dict[str, Any] = {
        "start": time.time() - 3600,
        "updated": time.time() - 3599,
        "rule_id": "all",
        "reason": Reason.RULE,
    }
    mined = flow(**ago | refused(Reason.FINDING) | {"dst": "192.0.2.9"})
    records = [
        *(tls("a.example", **ago) for _ in range(3)),
        tls("b.example", "198.51.100.8", **ago),
        tls("c.example", "198.51.100.9", **ago | refused(Reason.DEFAULT)),
        mined,
    ]
    with writing(engine) as connection:
        store(connection, [*records, finding(mined)])
        agents.add_agent(connection, Actor("uid:0 (root)"), StoredAgent(Agent("trainer"), "netns", "t"))
    return engine


def test_what_would_change_is_counted_and_grouped(lived: Engine, root: Client) -> None:
    rules = [{"action": "allow", "destination": f"{name}.example"} for name in "ac"]
    with lived.connect() as connection:
        before = audit.latest(connection)
    found = root.post("/simulate", {"rules": rules}).json()
    assert {key: found[key] for key in ("flows", "newly_refused", "newly_allowed", "same", "more")} == {
        "flows": 6, "newly_refused": 1, "newly_allowed": 1, "same": 4, "more": 0,
    }  # fmt: skip
    by_name = {each["destination"]: each for each in found["groups"]}
    assert by_name["b.example"]["newly_refused"] == 1 and by_name["c.example"]["newly_allowed"] == 1
    only = root.request("POST", "/simulate?limit=1", **YAML).json()
    assert (only["newly_refused"], only["newly_allowed"]) == (1, 0)
    assert root.request("POST", "/simulate?since=10m", **YAML).json()["flows"] == 0
    assert root.request("POST", "/simulate?since=3d&until=2d", **YAML).json()["flows"] == 0
    assert root.get("/policy/current").json()["version"] == 0
    with lived.connect() as connection:
        assert audit.latest(connection) == before


def test_only_an_editor_of_all_agents_may(lived: Engine, as_role: AsRole) -> None:
    for role in ("gateway", "viewer", "approver"):
        assert_problem(as_role(role).request("POST", "/simulate", **YAML), 403, detail=f"yours is {role}")
    for role in ("editor", "admin"):
        assert as_role(role).request("POST", "/simulate", **YAML).status_code == 200
    assert_problem(as_role("editor", "ci-*").request("POST", "/simulate", **YAML), 403, detail="ci-*")


def test_every_mistake_is_listed(root: Client) -> None:
    rules = [
        {"action": "allow", "destination": "a..b"},
        {"action": "allow", "destination": "fine.example"},
        {"action": "permit"},
        {"action": "deny", "ports": [0], "colour": "red"},
        "allow all",
    ]
    body = assert_problem_places(root, {"rules": rules})
    assert {each.rsplit("/rules/")[1].split("/")[0] for each in body} == {"0", "2", "3", "4"}
    assert "#/rules/0/destination" in body and "#/rules/2/action" in body


def assert_problem_places(root: Client, document: object) -> list[str]:
    answer = root.post("/simulate", document)
    assert answer.status_code == 422, answer.text
    places = [each["pointer"] for each in answer.json()["errors"]]
    assert_problem(answer, 422, *places)
    return places


def test_what_is_no_document_is_refused(root: Client) -> None:
    yaml = {"Content-Type": "application/yaml"}
    for content, headers, status in (
        (b"{", {"Content-Type": "application/json"}, 400),
        (b'{"rules": [], "rules": []}', {"Content-Type": "application/json"}, 400),
        (b"a: [", yaml, 400),
        (b"\xff", yaml, 400),
        (b"a: &a [*a, *a]", yaml, 422),
        (b"[]", yaml, 422),
        (b"rules: {}", yaml, 422),
        (b"rules: []", {"Content-Type": "text/plain"}, 415),
    ):
        answer = root.request("POST", "/simulate", content=content, headers=headers)
        assert answer.status_code == status, (content, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert_problem(root.request("POST", "/simulate?since=later", **YAML), 422, "since")
    assert_problem(root.request("POST", "/simulate?limit=0", **YAML), 422, "limit")


def test_a_version_of_the_policy_is_asked_like_a_document(lived: Engine, root: Client) -> None:
    ids = [root.post("/allowlist", {"action": "allow", "destination": f"{name}.example"}).json()["id"] for name in "ac"]
    root.delete(f"/allowlist/{ids[0]}")
    for version in range(4):
        rules = [
            {key: value for key, value in rule.items() if key != "created"}
            for rule in root.get(f"/policy/versions/{version}").json()["rules"]
        ]
        replayed = root.post(f"/policy/versions/{version}/replay?since=2h")
        assert replayed.json() == root.post("/simulate?since=2h", {"rules": rules}).json()
    assert root.post("/policy/versions/2/replay").json()["newly_allowed"] == 1
    assert_problem(root.post("/policy/versions/9/replay"), 404, detail="no version 9 of the policy; the newest is 3")
    assert_problem(root.post("/policy/versions/1/replay?since=later"), 422, "since")


def test_replaying_a_version_needs_an_editor_of_all_agents(lived: Engine, as_role: AsRole) -> None:
    for role in ("gateway", "viewer", "approver"):
        assert_problem(as_role(role).post("/policy/versions/0/replay"), 403, detail=f"yours is {role}")
    assert as_role("editor").post("/policy/versions/0/replay").status_code == 200
    assert_problem(as_role("editor", "ci-*").post("/policy/versions/0/replay"), 403, detail="ci-*")


def test_agents_that_are_gone_have_the_default_that_is_given(lived: Engine, root: Client) -> None:
    gone = flow(agent="gone", start=time.time() - 60, updated=time.time() - 59)
    with writing(lived) as connection:
        store(connection, [gone])
    denied, allowed = (root.post(f"/policy/versions/0/replay?default={word}").json() for word in ("deny", "allow"))
    assert (denied["gone"], denied["newly_refused"]) == (1, 5), "trainer's default is deny either way"
    assert (allowed["gone"], allowed["newly_refused"]) == (1, 4)
    only = root.post("/policy/versions/0/replay?default=deny&agent=g*").json()
    assert (only["flows"], only["newly_refused"]) == (1, 1)
    assert_problem(root.post("/policy/versions/0/replay?default=maybe"), 422, "default")
