"""/check: the verdict that a flow would get, by the rules after every edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

from egress.model import Action, Agent, Mode
from egress.store.database.database import writing
from egress.store.policy import agents
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.api.conftest import Client, assert_problem
from tests.whatif.recording import allow, deny

AsRole = Callable[..., Client]
ROOT = Actor("uid:0 (root)")


def agent(engine: Engine, name: str = "rome-7", **fields: Any) -> None:
    with writing(engine) as connection:
        agents.add_agent(connection, ROOT, StoredAgent(Agent(name, **fields), "netns", name))


def ask(client: Client, destination: str, name: str = "rome-7", **fields: Any) -> Any:
    answer = client.post("/check", {"agent": name, "destination": destination, "port": 443} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_reader_may_ask_and_the_gateway_may_not(as_role: AsRole) -> None:
    body = {"agent": "rome-7", "destination": "192.0.2.7", "port": 443}
    for role in ("viewer", "approver", "editor", "admin"):
        assert as_role(role).post("/check", body).json()["allowed"] is False
    assert_problem(as_role("gateway").post("/check", body), 403, detail="yours is gateway")
    assert_problem(as_role("viewer", "ci-*").post("/check", body), 403, detail="outside your scope")
    assert as_role("viewer", "ci-*").post("/check", body | {"agent": "ci-1"}).status_code == 200


def test_the_answer_follows_the_rules(engine: Engine, root: Client) -> None:
    agent(engine)
    assert ask(root, "example.org")["reason"] == "default"
    with writing(engine) as connection:
        Edit(connection, ROOT, 1.0).add([allow("example.org", id="web", ports=((443, 443),), app="tls")])
    found = ask(root, "EXAMPLE.org.")
    assert (found["allowed"], found["rule_id"], found["policy_version"]) == (True, "web", 1)
    assert found["resolvable"] is True
    assert any("tls" in each for each in found["conditions"])
    assert ask(root, "example.org", app="ssh")["reason"] == "application"
    assert ask(root, "example.org", port=80)["allowed"] is False
    with writing(engine) as connection:
        Edit(connection, ROOT, 2.0).add([deny("198.51.100.0/24", id="no")])
    assert ask(root, "example.org", address="198.51.100.7")["rule_id"] == "no"
    with writing(engine) as connection:
        Edit(connection, ROOT, 3.0).remove(["web"])
    found = ask(root, "example.org")
    assert (found["allowed"], found["policy_version"]) == (False, 3)


def test_the_answer_follows_the_agent(engine: Engine, root: Client) -> None:
    agent(engine, default=Action.ACCEPT)
    agent(engine, "asks", mode=Mode.ASK)
    assert ask(root, "192.0.2.7")["allowed"] is True
    assert ask(root, "192.0.2.7", "asks")["action"] == "hold"
    root.post("/agents/rome-7/quarantine")
    assert ask(root, "192.0.2.7")["reason"] == "quarantine"
    assert "Agent nobody is not attached" in ask(root, "192.0.2.7", "nobody")["conditions"][0]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"agent": "a*"}, "#/agent"),
    ({"agent": ""}, "#/agent"),
    ({"destination": ""}, "#/destination"),
    ({"destination": "10.0.0.0/8"}, "#/destination"),
    ({"destination": "*.example.org"}, "#/destination"),
    ({"destination": "a" * 1025}, "#/destination"),
    ({"destination": "x\n.example"}, "#/destination"),
    ({"port": 0}, "#/port"),
    ({"port": 65536}, "#/port"),
    ({"port": "https"}, "#/port"),
    ({"protocol": "icmp"}, "#/port"),
    ({"protocol": "tcq"}, "#/protocol"),
    ({"app": "T L S"}, "#/app"),
    ({"address": "nowhere"}, "#/address"),
    ({"host": "x"}, "#/host"),
]


def test_a_bad_field_is_named(root: Client) -> None:
    for body, place in BAD:
        wanted: dict[str, Any] = {"agent": "rome-7", "destination": "example.org", "port": 443}
        assert_problem(root.post("/check", wanted | body), 422, place)
