"""POST /agents/{agent}/steps and /episodes: steps begun and ended, joined with the flows between, by scope."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from api.app import create_app
from egress.config import Api, Config
from egress.model import Agent
from egress.store.database.database import writing
from egress.store.policy import audit, ruleset
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from egress.store.recording.writer import store
from tests.api.conftest import Client, assert_problem
from tests.whatif.recording import finding, flow

AsRole = Callable[..., Client]
STEPS = "/agents/rome-7/steps"
CALL: dict[str, Any] = {"episode": "run-17", "id": "call_1", "tool": "bash", "summary": '{"command": "make test"}'}


@pytest.fixture(autouse=True)
def attached(engine: Engine) -> None:
    with writing(engine) as connection:
        for name in ("rome-7", "ci-1"):
            add_agent(connection, Actor("test"), StoredAgent(Agent(name), "netns", name))


def stamp(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).isoformat()


def test_a_step_is_told_when_it_begins_and_again_when_it_is_over(root: Client) -> None:
    before = time.time()
    begun = root.post(STEPS, CALL)
    assert begun.status_code == 201 and begun.json()["end"] is None
    assert before - 0.001 <= datetime.fromisoformat(begun.json()["start"]).timestamp() <= time.time()
    ended = root.post(STEPS, CALL | {"end": "now"})
    assert ended.status_code == 200
    assert ended.json()["start"] == begun.json()["start"] and ended.json()["until"] == ended.json()["end"]
    assert root.get(STEPS).json() == {"items": [ended.json()], "next": None}


def test_the_same_step_told_twice_is_one_and_another_story_a_conflict(root: Client) -> None:
    whole = CALL | {"start": stamp(time.time() - 2), "end": stamp(time.time() - 1)}
    assert [root.post(STEPS, whole).status_code for _ in range(3)] == [201, 200, 200]
    assert_problem(root.post(STEPS, whole | {"end": "now"}), 409, detail="has end")
    assert_problem(root.post(STEPS, whole | {"tool": "curl"}), 409, detail="already has tool bash")
    assert len(root.get(STEPS).json()["items"]) == 1


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"end": "2020-01-01T00:00:00Z"}, "#/end"),
        ({"start": "yesterday"}, "#/start"),
        ({"start": "2026-01-01T00:00:00"}, "#/start"),
        ({"start": "2999-01-01T00:00:00Z"}, "#/start"),
        ({"id": ""}, "#/id"),
        ({"id": "a\u202eb"}, "#/id"),
        ({"episode": "x" * 129}, "#/episode"),
        ({"trace_id": "xyz"}, "#/trace_id"),
        ({"tool": 7}, "#/tool"),
        ({"colour": "red"}, "#/colour"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(root: Client, wrong: dict[str, object], place: str) -> None:
    assert_problem(root.post(STEPS, CALL | wrong), 422, place)


def test_an_agent_that_nobody_knows_is_a_mistake_and_one_that_is_gone_is_not(root: Client, engine: Engine) -> None:
    assert_problem(root.post("/agents/rome7/steps", CALL), 404, detail="agent 'rome7' is neither attached nor recorded")
    with writing(engine) as connection:
        store(connection, [flow(agent="box-1")])
    assert root.post("/agents/box-1/steps", CALL).status_code == 201, "a sandbox that has ended"


def test_a_reporter_may_tell_of_its_agents_and_nothing_else(as_role: AsRole, root: Client) -> None:
    reporter = as_role("reporter", "rome-*")
    assert reporter.post(STEPS, CALL).status_code == 201
    assert_problem(reporter.post("/agents/ci-1/steps", CALL), 404)
    for path in (
        STEPS,
        "/episodes",
        "/episodes/run-17",
        "/flows",
        "/allowlist",
        "/agents",
        "/policy/current",
        "/tokens",
    ):
        assert_problem(reporter.get(path), 403, detail="yours is reporter")
    assert_problem(reporter.post("/allowlist", {"action": "deny"}), 403)
    for role, status in (("viewer", 403), ("approver", 403), ("gateway", 403), ("editor", 200), ("admin", 200)):
        assert as_role(role).post(STEPS, CALL).status_code == status
    assert root.get(STEPS).json()["items"][0]["reporter"].endswith("(a admin)")
    made = root.post("/tokens", {"name": "framework", "role": "reporter", "agents": ["rome-7"]})
    assert made.status_code == 201 and made.json()["role"] == "reporter"


def test_telling_is_no_edit(root: Client, engine: Engine) -> None:
    with engine.connect() as connection:
        before = audit.latest(connection), ruleset.current(connection)
    root.post(STEPS, CALL)
    root.post(STEPS, CALL | {"end": "now"})
    with engine.connect() as connection:
        assert (audit.latest(connection), ruleset.current(connection)) == before


def test_a_framework_that_floods_is_told_to_wait(config: Config, engine: Engine) -> None:
    client = Client(create_app(dataclasses.replace(config, api=Api(steps=2)), engine))
    assert [client.post(STEPS, CALL | {"id": f"{number}"}).status_code for number in range(4)] == [201, 201, 429, 429]
    answer = client.post(STEPS, CALL | {"id": "9"})
    assert_problem(answer, 429, detail="api.steps")
    assert answer.headers["retry-after"] == "3600"
    metrics = client.get("/metrics").text
    assert 'egress_steps_total{what="too many"} 3.0' in metrics and 'egress_steps_total{what="new"} 2.0' in metrics


def report_steps(root: Client) -> float:
    """Report a step of ten seconds, and another one long after it; returns when the first began."""
    start = round(time.time()) - 1000.0
    root.post(STEPS, CALL | {"start": stamp(start), "end": stamp(start + 10)})
    root.post(STEPS, CALL | {"id": "call_2", "tool": "python", "start": stamp(start + 60), "end": stamp(start + 65)})
    return start


def test_an_episode_with_what_left_meanwhile(root: Client, engine: Engine) -> None:
    start = report_steps(root)
    during = flow(agent="rome-7", start=start + 1, updated=start + 1, end=start + 62)
    between = flow(agent="rome-7", start=start + 30, updated=start + 30, end=start + 30, dst="203.0.113.9")
    with writing(engine) as connection:
        store(connection, [during, between, finding(between)])
    answer = root.get("/episodes/run-17")
    assert answer.status_code == 200
    one, gap, two = answer.json()["parts"]
    assert [part["kind"] for part in (one, gap, two)] == ["step", "no tool", "step"]
    assert one["flows"][0]["agent"] == {"name": "rome-7", "episode": "run-17", "step": "call_1"}
    assert one["flows"][0]["alive_in_steps"] == {"first": 2, "last": 2} and two["traffic"]["still_alive"] == 1
    assert gap["traffic"]["signatures"] == {"mining.stratum": 1}
    assert gap["traffic"]["destinations"] == {"tcp 203.0.113.9:443": 1}
    assert gap["flows"][0]["findings"][0]["alert"]["signature"] == "mining.stratum"
    assert root.get("/flows", params={"q": "-tool:*"}).json()["items"][0]["flow_id"] == between.flow_id
    (listed,) = root.get("/episodes").json()["items"]
    assert (listed["agent"], listed["episode"], listed["steps"], listed["tools"]) == ("rome-7", "run-17", 2, 2)


def test_an_episode_is_seen_by_whoever_sees_its_agent(root: Client, as_role: AsRole) -> None:
    report_steps(root)
    root.post("/agents/ci-1/steps", CALL)
    assert_problem(root.get("/episodes/run-17"), 409, "agent", detail="ci-1, rome-7")
    assert root.get("/episodes/run-17?agent=ci-1").json()["agent"] == "ci-1"
    viewer = as_role("viewer", "rome-*")
    assert viewer.get("/episodes/run-17").json()["agent"] == "rome-7"
    assert [each["agent"] for each in viewer.get("/episodes").json()["items"]] == ["rome-7"]
    assert_problem(viewer.get("/episodes/run-17?agent=ci-1"), 404)
    assert_problem(viewer.get("/agents/ci-1/steps"), 404)
    assert_problem(viewer.get("/episodes/run-18"), 404)


def test_an_id_may_hold_slashes(root: Client) -> None:
    root.post(STEPS, CALL | {"episode": "projects/x/sessions/1"})
    assert root.get("/episodes/projects%2Fx%2Fsessions%2F1").json()["episode"] == "projects/x/sessions/1"


def test_pages(root: Client) -> None:
    now = time.time()
    for number in range(5):
        root.post(STEPS, CALL | {"id": f"{number}", "episode": f"e{number}", "start": stamp(now - number)})
    for path, key in ((STEPS, "id"), ("/episodes", "episode")):
        seen, cursor = [], None
        while True:
            page = root.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += [each[key][-1] for each in page["items"]]
            if (cursor := page["next"]) is None:
                break
        assert seen == ["0", "1", "2", "3", "4"]
