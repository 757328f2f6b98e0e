"""/agents: roles and scopes, edits that cannot be lost, and their entries in the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

from egress.config import Config
from egress.model import Agent, Mode
from egress.store.database.database import writing
from egress.store.policy import agents, audit
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from tests.api.conftest import Client, assert_problem

AsRole = Callable[..., Client]
ROLES = ("viewer", "approver", "editor", "admin", "gateway")
NEW = {"name": "rome-7", "kind": "netns", "value": "rome"}


def add(engine: Engine, *names: str, kind: str = "netns") -> None:
    with writing(engine) as connection:
        for name in names:
            agents.add_agent(connection, Actor("uid:0 (root)"), StoredAgent(Agent(name), kind, name))


def noted(engine: Engine) -> list[audit.AuditEntry]:
    """The audit trail's entries, oldest first."""
    with engine.connect() as connection:
        return [each for each in reversed(audit.entries(connection, limit=100)) if each.action.startswith("agent.")]


TABLE: list[tuple[str, str, object, tuple[str, ...]]] = [
    ("GET", "/agents", None, ROLES),
    ("GET", "/agents/rome-7", None, ROLES[:4]),
    ("POST", "/agents", {**NEW, "name": "rome-8"}, ROLES[3:4]),
    ("PATCH", "/agents/rome-7", {"mode": "ask"}, ROLES[2:4]),
    ("POST", "/agents/rome-7/quarantine", None, ROLES[2:4]),
    ("POST", "/agents/rome-7/release", None, ROLES[2:4]),
    ("DELETE", "/agents/rome-7", None, ROLES[3:4]),
]


def test_each_role_may_do_what_it_is_for(engine: Engine, as_role: AsRole) -> None:
    add(engine, "rome-7")
    clients = {role: as_role(role) for role in ROLES}
    for method, path, body, allowed in TABLE:
        for role, client in clients.items():
            answer = client.request(method, path, **({"json": body} if body else {}))
            if role in allowed:
                assert answer.is_success, (method, path, role, answer.text)
            else:
                assert_problem(answer, 403, detail=f"yours is {role}")


def test_another_ones_agent_is_not_there(engine: Engine, as_role: AsRole) -> None:
    add(engine, "ci-1", "ci-2", "rome-7")
    admin = as_role("admin", "ci-*")
    assert [each["name"] for each in admin.get("/agents").json()["items"]] == ["ci-1", "ci-2"]
    for method, path in (
        ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/quarantine"), ("POST", "/release"),
    ):  # fmt: skip
        body = {"json": {"mode": "ask"}} if method == "PATCH" else {}
        assert_problem(admin.request(method, f"/agents/rome-7{path}", **body), 404, detail="outside your scope")
    assert_problem(admin.post("/agents", NEW | {"name": "rome-8"}), 403, detail="outside your scope")
    assert admin.post("/agents", NEW | {"name": "ci-3"}).status_code == 201
    assert [each.action for each in noted(engine)] == ["agent.create"] * 4


def test_agents_of_other_hosts(engine: Engine, root: Client) -> None:
    assert root.post("/agents", NEW | {"host": "gpu-1"}).json()["host"] == "gpu-1"
    taken = root.post("/agents", NEW | {"host": "gpu-2"})
    assert_problem(taken, 409, detail="there is an agent rome-7 already on host gpu-1")
    assert root.post("/agents", NEW | {"name": "rome-8", "host": "gpu-2"}).status_code == 201
    assert [each["name"] for each in root.get("/agents", params={"host": "gpu-2"}).json()["items"]] == ["rome-8"]
    assert len(root.get("/agents").json()["items"]) == 2
    assert root.post("/agents/rome-7/quarantine").json()["quarantined"]
    assert_problem(root.post("/agents", NEW | {"name": "rome-9", "host": "-"}), 422, "#/host")


def test_pages_have_no_gap_and_no_repeat_while_agents_come(engine: Engine, root: Client) -> None:
    names = [f"{letter}{number}" for letter in "Zaz" for number in range(4)]
    add(engine, *names)
    seen, cursor = [], None
    while True:
        page = root.get("/agents", params={"limit": 5, **({"cursor": cursor} if cursor else {})}).json()
        seen += [each["name"] for each in page["items"]]
        add(engine, f"A{len(seen)}")  # before all of them
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == sorted(names)


def test_an_agent_is_made_read_changed_and_removed(engine: Engine, as_role: AsRole) -> None:
    admin = as_role("admin")
    body = NEW | {"networks": ["10.77.1.0/30"], "labels": ["gpu"], "budgets": ["bytes=10mb/hour"], "default": "allow"}
    made = admin.post("/agents", body)
    assert made.status_code == 201
    assert made.headers["location"] == "/api/v1/agents/rome-7"
    rest = {"mode": "enforce", "quarantined": False, "created": made.json()["created"], "host": Config().host_name}
    assert made.json() == body | rest
    read = admin.get("/agents/rome-7")
    assert (read.json(), read.headers["etag"]) == (made.json(), made.headers["etag"])
    changed = admin.patch("/agents/rome-7", {"mode": "ask", "labels": [], "default": "deny", "budgets": []})
    assert changed.json() == made.json() | {"mode": "ask", "labels": [], "default": "deny", "budgets": []}
    assert changed.headers["etag"] != made.headers["etag"]
    assert admin.delete("/agents/rome-7").status_code == 204
    assert_problem(admin.get("/agents/rome-7"), 404)
    entries = noted(engine)
    assert [(each.action, each.target) for each in entries] == [
        ("agent.create", "rome-7"), ("agent.update", "rome-7"), ("agent.delete", "rome-7"),
    ]  # fmt: skip
    assert entries[1].before["mode"] == "enforce" and entries[1].after["mode"] == "ask"
    assert entries[1].request_id == changed.headers["x-request-id"]
    assert entries[1].actor.startswith("token:") and entries[1].actor.endswith("(a admin)")


def test_a_lost_update_is_refused(engine: Engine, root: Client) -> None:
    add(engine, "rome-7")
    old = root.get("/agents/rome-7").headers["etag"]
    first = root.patch("/agents/rome-7", {"mode": "ask"}, headers={"If-Match": old})
    assert first.status_code == 200
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/quarantine")):
        body = {"json": {"mode": "monitor"}} if method == "PATCH" else {}
        late = root.request(method, f"/agents/rome-7{path}", headers={"If-Match": old}, **body)
        assert_problem(late, 412)
        assert late.headers["etag"] == first.headers["etag"]
    now = root.get("/agents/rome-7").json()
    assert (now["mode"], now["quarantined"]) == ("ask", False)


def test_quarantine_and_release_are_written_down_once(engine: Engine, root: Client) -> None:
    add(engine, "rome-7")
    for _ in range(2):
        assert root.post("/agents/rome-7/quarantine").json()["quarantined"] is True
    assert root.get("/agents/rome-7").json()["quarantined"] is True
    assert root.post("/agents/rome-7/release").json()["quarantined"] is False
    assert [each.action for each in noted(engine)] == ["agent.create", "agent.quarantine", "agent.release"]
    assert noted(engine)[1].actor == "uid:0 (root)"


def test_a_dry_run_changes_nothing(engine: Engine, root: Client) -> None:
    add(engine, "rome-7")
    before = noted(engine)
    shown = root.patch("/agents/rome-7?dry_run=true", {"mode": "monitor"})
    assert (shown.json()["mode"], shown.headers["dry-run"]) == ("monitor", "true")
    assert root.post("/agents/rome-7/quarantine?dry_run=true").json()["quarantined"] is True
    assert root.delete("/agents/rome-7?dry_run=true").status_code == 204
    assert root.post("/agents?dry_run=true", NEW | {"name": "rome-8"}).status_code == 201
    assert [each["name"] for each in root.get("/agents").json()["items"]] == ["rome-7"]
    assert root.get("/agents/rome-7").json()["mode"] == Mode.ENFORCE
    assert noted(engine) == before


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "#/name"),
    ({"name": "x" * 64}, "#/name"),
    ({"name": "-x"}, "#/name"),
    ({"kind": "sandbox"}, "#/kind"),
    ({"value": ""}, "#/value"),
    ({"value": "a\nb"}, "#/value"),
    ({"kind": "cidr", "value": "10.0.7.0/24"}, "#/value"),
    ({"kind": "cidr", "value": "10.0.7.1/24@br0"}, "#/value"),
    ({"networks": ["10.0.0.0/8", "10.0.0.1/8"]}, "#/networks/1"),
    ({"mode": "off"}, "#/mode"),
    ({"default": "accept"}, "#/default"),
    ({"labels": ["gpu", "\x1b"]}, "#/labels/1"),
    ({"budgets": ["bytes=1mb/hour", "bytes"]}, "#/budgets/1"),
    ({"budgets": ["bytes=1mb/hour", "bytes=2mb/hour"]}, "#/budgets"),
    ({"quarantined": True}, "#/quarantined"),
]


def test_a_bad_field_is_named(engine: Engine, root: Client) -> None:
    add(engine, "rome-9")
    for body, place in BAD:
        assert_problem(root.post("/agents", NEW | body), 422, place)
        if set(body) & {"mode", "default", "labels", "budgets"}:
            assert_problem(root.patch("/agents/rome-9", body), 422, place)
    assert [each.action for each in noted(engine)] == ["agent.create"]


def test_conflicts_are_said(engine: Engine, root: Client) -> None:
    add(engine, "rome-7")
    add(engine, "run-1", kind="sandbox")
    assert_problem(root.post("/agents", NEW), 409, detail="there is an agent rome-7 already")
    assert_problem(root.delete("/agents/run-1"), 409, detail="sandbox")
    assert root.post("/agents/run-1/quarantine").json()["kind"] == "sandbox"
    assert_problem(root.get("/agents?cursor=zzz"), 400, "cursor")
