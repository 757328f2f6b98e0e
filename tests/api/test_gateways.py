"""/gateways: hosts, states and policy versions; a gateway is deleted or renamed only while it does not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.engine import Engine

from egress.model import Action, Agent, Reason, Rule
from egress.store.database.database import writing
from egress.store.policy import agents, gateways, ruleset
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.recording.writer import store
from tests.api.conftest import Client, assert_problem
from tests.store import samples

AsRole = Callable[..., Client]
GATEWAY = Actor("gateway")


def runs(engine: Engine, *hosts: str) -> None:
    """Start gateways that judge by version 1, each with an agent of its own and a rule in its file."""
    with writing(engine) as connection:
        for host in hosts:
            gateways.claim(connection, host, f"run of {host}", host, "0.1.0")
            gateways.beat(connection, host, f"run of {host}", 1, 1)
            agents.add_agent(connection, GATEWAY, StoredAgent(Agent(f"a-{host}"), "netns", "a", host=host))
            listed = Rule(f"{host}:ssh", Action.ACCEPT, destination=f"{host}.example.org")
            Edit(connection, GATEWAY, 5.0).sync(ruleset.FILE, [listed], host)


def stop(engine: Engine, host: str) -> None:
    with writing(engine) as connection:
        gateways.leave(connection, host, f"run of {host}")


def test_who_runs_where_and_how_far_behind(engine: Engine, as_role: AsRole) -> None:
    runs(engine, "gpu-2", "gpu-1")
    stop(engine, "gpu-2")
    viewer = as_role("viewer")
    first, second = viewer.get("/gateways").json()["items"]
    assert (first["host"], first["state"], first["policy_version"], first["behind"]) == ("gpu-1", "up", 1, 1)
    assert (second["host"], second["state"], second["agents"]) == ("gpu-2", "stopped", 0)
    page = viewer.get("/gateways", params={"limit": 1}).json()
    rest = viewer.get("/gateways", params={"limit": 1, "cursor": page["next"]}).json()
    assert [each["host"] for each in (*page["items"], *rest["items"])] == ["gpu-1", "gpu-2"]


def test_only_an_admin_of_all_agents_forgets_a_host_and_only_one_that_does_not_run(
    engine: Engine, as_role: AsRole, root: Client
) -> None:
    runs(engine, "gpu-1", "gpu-2")
    for client in (as_role("editor"), as_role("admin", "a-*")):
        assert_problem(client.delete("/gateways/gpu-1"), 403)
        assert_problem(client.post("/gateways/gpu-1/rename", {"name": "x"}), 403)
    admin = as_role("admin")
    assert_problem(admin.delete("/gateways/gpu-1"), 409, detail="a gateway runs on host gpu-1")
    assert_problem(admin.delete("/gateways/none"), 404)
    stop(engine, "gpu-1")
    assert admin.delete("/gateways/gpu-1", params={"dry_run": "true"}).status_code == 204
    assert len(root.get("/agents").json()["items"]) == 2
    assert admin.delete("/gateways/gpu-1").status_code == 204
    assert [each["name"] for each in root.get("/agents").json()["items"]] == ["a-gpu-2"]
    assert [each["id"] for each in root.get("/allowlist").json()["items"]] == ["gpu-2:ssh"]
    assert root.get("/audit").json()["items"][0]["action"] == "host.forget"


def test_a_host_gets_another_name(engine: Engine, root: Client) -> None:
    runs(engine, "gpu-1", "gpu-2")
    stop(engine, "gpu-1")
    assert_problem(root.post("/gateways/gpu-1/rename", {"name": "gpu-2"}), 409, detail="host gpu-2 already exists")
    assert_problem(root.post("/gateways/gpu-1/rename", {"name": "a b"}), 422, "#/name")
    assert root.post("/gateways/gpu-1/rename", {"name": "gpu-3"}).status_code == 204
    assert root.get("/agents/a-gpu-1").json()["host"] == "gpu-3"
    assert root.get("/allowlist/gpu-1:ssh").json()["host"] == "gpu-3"


def test_a_question_is_answered_by_the_rules_of_the_agents_host(engine: Engine, root: Client) -> None:
    runs(engine, "gpu-1", "gpu-2")
    for agent, host, allowed in (("a-gpu-1", "gpu-1", True), ("a-gpu-1", "gpu-2", False), ("a-gpu-2", "gpu-2", True)):
        question = {"agent": agent, "destination": f"{host}.example.org", "port": 22}
        assert root.post("/check", question).json()["allowed"] is allowed
    flows = [
        samples.numbered(number, agent=agent, server_name=f"{host}.example.org", names=(f"{host}.example.org",))
        for number, (agent, host) in enumerate((("a-gpu-1", "gpu-1"), ("a-gpu-1", "gpu-2"), ("a-gpu-2", "gpu-2")))
    ]
    with writing(engine) as connection:
        store(connection, [replace(flow, app_proto="tls", reason=Reason.DEFAULT) for flow in flows])
    replayed = root.post("/policy/versions/2/replay", params={"since": "100d"}).json()
    found = {(each["agent"], each["rule_id"]): each["newly_allowed"] for each in replayed["groups"]}
    assert found == {("a-gpu-1", "gpu-1:ssh"): 1, ("a-gpu-2", "gpu-2:ssh"): 1}
    root.post("/allowlist", {"action": "deny", "destination": "gpu-1.example.org"})
    question = {"agent": "a-gpu-1", "destination": "gpu-1.example.org", "port": 22}
    assert root.post("/check", question).json()["allowed"] is False, "and kept up with edits"
