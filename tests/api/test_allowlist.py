"""The allowlist over HTTP: list, get, create, replace, patch, delete, prune, import and export."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from egress.model import Action, Rule
from egress.store.database.database import writing
from egress.store.policy import audit, ruleset
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.recording.writer import store
from tests.api.conftest import Client, assert_problem
from tests.store.samples import FLOW

RULE = {"action": "allow", "destination": "*.example.org", "ports": [443, "8000-8100"], "agent": "ci-*"}
YAML = {"Content-Type": "application/yaml"}


def of_the_file(engine: Engine, *listed: Rule) -> None:
    with writing(engine) as connection:
        Edit(connection, Actor("gateway"), time.time()).sync("file", listed)


def state(engine: Engine) -> tuple[object, int]:
    with engine.connect() as connection:
        return ruleset.snapshot(connection), audit.latest(connection)


def test_a_rule_is_made_read_and_removed(root: Client) -> None:
    made = root.post("/allowlist", RULE)
    assert made.status_code == 201
    rule = made.json()
    assert rule["ports"] == RULE["ports"] and rule["source"] == "allowlist" and rule["added"] == 1
    assert rule["author"] == "uid:0 (root)"
    assert made.headers["location"] == f"/api/v1/allowlist/{rule['id']}"
    assert made.headers["etag"] == '"1"'
    got = root.get(made.headers["location"])
    assert got.json() == {**rule, "hits": 0, "last_hit": None}
    assert got.headers["etag"] == '"1"'
    assert root.get(made.headers["location"], headers={"If-None-Match": '"1"'}).status_code == 304
    gone = root.delete(made.headers["location"])
    assert gone.status_code == 204 and gone.content == b""
    assert_problem(root.get(made.headers["location"]), 404)
    assert_problem(root.delete(made.headers["location"]), 404)


def test_what_is_made_is_what_the_policy_says(root: Client, engine: Engine) -> None:
    root.post("/allowlist", {**RULE, "expires": "1h", "id": "mine"})
    with engine.connect() as connection:
        policy = ruleset.snapshot(connection)
    assert policy is not None
    (rule,) = policy.rules
    assert (rule.id, rule.action, rule.ports, rule.agent) == ("mine", Action.ACCEPT, ((443, 443), (8000, 8100)), "ci-*")
    assert rule.expires_at is not None and 3590 < rule.expires_at - time.time() <= 3600


@pytest.mark.parametrize(
    "change, pointer",
    [
        ({"action": "maybe"}, "#/action"),
        ({"ports": [0]}, "#/ports"),
        ({"destination": "exa mple"}, "#/destination"),
        ({"expires": "tomorrow"}, "#/expires"),
        ({"exempt": "x"}, "#/exempt"),
        ({"id": "a/b"}, "#/id"),
        ({"protocol": "icmp"}, "#/ports"),
        ({"colour": "red"}, "#"),
        ({"comment": "x" * 1001}, "#/comment"),
        ({"agent": 7}, "#/agent"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_changes(
    root: Client, engine: Engine, change: dict[str, object], pointer: str
) -> None:
    before = state(engine)
    assert_problem(root.post("/allowlist", {**RULE, **change}), 422, pointer)
    assert state(engine) == before


def test_conflicts_name_the_rule(root: Client) -> None:
    made = root.post("/allowlist", RULE).json()["id"]
    assert_problem(root.post("/allowlist", RULE), 409, detail=made)
    assert_problem(root.post("/allowlist", {"action": "deny", "id": made}), 409, detail=made)


def test_rules_of_others_are_shown_but_not_edited_here(root: Client, engine: Engine) -> None:
    of_the_file(engine, Rule("filed", Action.ACCEPT))
    assert root.get("/allowlist/filed").json()["source"] == "file"
    for answer in (
        root.put("/allowlist/filed", {"action": "deny"}),
        root.patch("/allowlist/filed", {"comment": "x"}),
        root.delete("/allowlist/filed"),
    ):
        assert_problem(answer, 409, detail="policy file")


@pytest.mark.parametrize("odd", ["%2e%2e", "a%2fb", "%C3%A9", "-x", "a" * 65, "%F0%9F%92%A3", "a%20b", "%27"])
def test_odd_ids(root: Client, odd: str) -> None:
    for method in ("GET", "DELETE"):
        assert root.request(method, f"/allowlist/{odd}").status_code in (404, 405, 422)
    assert root.put(f"/allowlist/{odd}", RULE).status_code in (404, 405, 422)


def test_put_replaces_all_of_it(root: Client) -> None:
    made = root.post("/allowlist", {**RULE, "comment": "old"}).json()
    done = root.put(f"/allowlist/{made['id']}", {"action": "deny", "destination": "any"})
    assert done.status_code == 200 and done.headers["etag"] == '"2"'
    assert done.json() | {"author": ""} == {
        "id": made["id"], "action": "deny", "destination": "any", "agent": "*", "author": "",
        "source": "allowlist", "host": "", "created": made["created"], "added": 2,
    }  # fmt: skip
    assert_problem(root.put(f"/allowlist/{made['id']}", {**RULE, "id": "other"}), 422, "#/id")
    assert_problem(root.put("/allowlist/none", RULE), 404)


def test_patch_merges(root: Client) -> None:
    made = root.post("/allowlist", {**RULE, "comment": "old", "expires": "1h", "author": "eve"}).json()
    path = f"/allowlist/{made['id']}"
    done = root.patch(path, {"comment": None, "ports": [22]}, headers={"Content-Type": "application/merge-patch+json"})
    assert done.status_code == 200, done.text
    assert done.json() == {**{k: v for k, v in made.items() if k != "comment"}, "ports": [22], "added": 2}
    assert "expires" not in root.patch(path, {"expires": None}).json()
    assert root.patch(path, {}).json()["added"] == 3, "nothing to change makes no version"
    assert_problem(root.patch(path, {"action": None}), 422, "#", detail="action is missing")
    assert_problem(root.patch(path, {"ports": "x"}), 422, "#/ports")


def test_an_edit_of_what_was_changed_meanwhile_is_refused(root: Client) -> None:
    path = f"/allowlist/{root.post('/allowlist', RULE).json()['id']}"
    assert root.patch(path, {"comment": "one"}, headers={"If-Match": '"1"'}).status_code == 200
    answer = root.patch(path, {"comment": "two"}, headers={"If-Match": '"1"'})
    assert_problem(answer, 412)
    assert answer.headers["etag"] == '"2"'
    assert_problem(root.delete(path, headers={"If-Match": '"1", "7"'}), 412)
    assert_problem(root.delete(path, headers={"If-Match": 'W/"2"'}), 412)
    assert_problem(root.delete(path, headers={"If-Match": "2"}), 400, "If-Match")
    assert root.get(path).json()["comment"] == "one"
    assert root.delete(path, headers={"If-Match": '"1", "2"'}).status_code == 204


def test_concurrent_editors_lose_nothing(app: FastAPI, root: Client) -> None:
    path = f"/allowlist/{root.post('/allowlist', {**RULE, 'comment': '0'}).json()['id']}"
    lost = []

    def edit() -> None:
        client = Client(app)
        for _ in range(5):
            while True:
                got = client.get(path)
                count = int(got.json()["comment"]) + 1
                done = client.patch(path, {"comment": str(count)}, headers={"If-Match": got.headers["etag"]})
                if done.status_code == 200:
                    break
                assert_problem(done, 412)
                lost.append(done)

    threads = [threading.Thread(target=edit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert root.get(path).json()["comment"] == "20"
    assert root.get("/policy/current").json()["version"] == 21
    assert root.get("/audit/verify").json()["broken"] is None


def test_listing_filters_and_pages(root: Client, engine: Engine) -> None:
    for number in range(7):
        root.post("/allowlist", {"action": "allow", "destination": f"h{number}.example.org", "agent": f"a{number % 2}"})
    root.post("/allowlist", {"action": "deny", "destination": "any", "comment": "Keep Out"})
    of_the_file(engine, Rule("filed", Action.ACCEPT, destination="192.0.2.0/24"))

    def found(query: str) -> list[str]:
        return [each["destination"] for each in root.get(f"/allowlist?{query}").json()["items"]]

    everything = found("")
    assert everything == ["any", *(f"h{number}.example.org" for number in range(6, -1, -1)), "192.0.2.0/24"]
    assert found("action=deny") == ["any"] == found("q=keep") == found("agent=[*]&source=allowlist")
    assert found("source=file") == ["192.0.2.0/24"]
    assert found("destination=h3") == ["h3.example.org"]
    assert found("applies_to=a1") == ["any", *(f"h{number}.example.org" for number in (5, 3, 1)), "192.0.2.0/24"]
    assert found("expired=true") == [] and found("expired=false") == everything
    page = root.get("/allowlist?limit=2").json()
    pages = page["items"]
    while page["next"]:
        page = root.get(f"/allowlist?limit=2&cursor={page['next']}").json()
        pages += page["items"]
    assert [each["destination"] for each in pages] == everything


def test_hits_are_the_flows_a_rule_decided(root: Client, engine: Engine) -> None:
    rule_id = root.post("/allowlist", RULE).json()["id"]
    with writing(engine) as connection:
        store(connection, [replace(FLOW, rule_id=rule_id, start=1_700_000_000.0, updated=1_700_000_001.0)])
    (item,) = root.get("/allowlist").json()["items"]
    assert (item["hits"], item["last_hit"]) == (1, "2023-11-14T22:13:20Z")


def test_pruning_removes_what_nothing_uses(root: Client, engine: Engine) -> None:
    used, unused = (root.post("/allowlist", {"action": "allow", "ports": port}).json()["id"] for port in (1, 2))
    with writing(engine) as connection:
        store(connection, [replace(FLOW, flow_id=secrets.token_hex(8), rule_id=used, start=time.time())])
    assert root.delete("/allowlist?unused_for=30d").json()["removed"] == []
    time.sleep(1.1)
    with writing(engine) as connection:
        store(connection, [replace(FLOW, flow_id=secrets.token_hex(8), rule_id=used, start=time.time())])
    shown = root.delete("/allowlist?unused_for=1s&dry_run=true")
    assert [each["id"] for each in shown.json()["removed"]] == [unused]
    assert len(root.get("/allowlist").json()["items"]) == 2
    assert root.delete("/allowlist?unused_for=1s").json()["removed"] == shown.json()["removed"]
    assert [each["id"] for each in root.get("/allowlist").json()["items"]] == [used]
    assert_problem(root.delete("/allowlist"), 422, "unused_for")
    assert_problem(root.delete("/allowlist?unused_for=soon"), 422, "unused_for")


def test_a_scope_limits_what_may_be_edited(root: Client, as_role: Callable[..., Client]) -> None:
    mine, other = (root.post("/allowlist", {**RULE, "agent": agent}).json()["id"] for agent in ("ci-1", "prod"))
    client = as_role("editor", "ci-*")
    assert client.post("/allowlist", {**RULE, "agent": "ci-*"}).status_code == 201
    assert_problem(client.post("/allowlist", {**RULE, "agent": "*"}), 403, detail="ci-*")
    assert_problem(client.patch(f"/allowlist/{mine}", {"agent": "prod"}), 403)
    assert_problem(client.patch(f"/allowlist/{other}", {"agent": "ci-2"}), 403)
    assert_problem(client.put(f"/allowlist/{other}", {**RULE, "agent": "ci-2"}), 403)
    assert_problem(client.delete(f"/allowlist/{other}"), 403)
    document = {"rules": [{**RULE, "agent": "ci-7"}, {"action": "deny", "agent": "prod"}]}
    assert_problem(client.post("/allowlist/import", document), 403, "#/rules/1/agent")
    assert_problem(client.post("/allowlist/import?mode=replace", {"rules": []}), 403, "#", detail=other)
    assert client.delete(f"/allowlist/{mine}").status_code == 204


def test_export_and_import_are_inverse(root: Client) -> None:
    for number in range(3):
        root.post("/allowlist", {**RULE, "destination": f"h{number}.org", "comment": "ä: #", "expires": "1d"})
    text = root.get("/allowlist/export?format=yaml")
    assert text.headers["content-type"].startswith("application/yaml")
    document = root.get("/allowlist/export").json()
    assert yaml.safe_load(text.text)["rules"][0]["id"] == document["rules"][0]["id"]
    same = root.request("POST", "/allowlist/import?mode=replace", content=text.content, headers=YAML)
    assert same.json() == {"version": 3, "added": 0, "replaced": 0, "removed": 0, "unchanged": 3}
    empty = root.post("/allowlist/import?mode=replace", {"rules": []})
    assert empty.json() == {"version": 4, "added": 0, "replaced": 0, "removed": 3, "unchanged": 0}
    assert root.post("/allowlist/import", document).json()["added"] == 3
    assert root.get("/allowlist/export").json() == document


def test_an_import_merges_or_adds(root: Client) -> None:
    root.post("/allowlist", {**RULE, "id": "one"})
    root.post("/allowlist", {**RULE, "id": "two", "ports": 1})
    document = {"rules": [{**RULE, "id": "one", "ports": [22]}, {"action": "deny", "id": "new", "expires": "1h"}]}
    assert_problem(root.post("/allowlist/import", document), 409, "#/rules/0/id")
    done = root.post("/allowlist/import?mode=merge", document)
    assert done.json() == {"version": 3, "added": 1, "replaced": 1, "removed": 0, "unchanged": 0}
    assert {each["id"]: each.get("ports") for each in root.get("/allowlist").json()["items"]} == {
        "new": None, "one": [22], "two": [1],
    }  # fmt: skip
    twin = {"rules": [{**RULE, "ports": 1, "id": "twin"}]}
    assert_problem(root.post("/allowlist/import?mode=merge", twin), 409, "#", detail="two")


def test_a_bad_import_changes_nothing_and_lists_every_mistake(root: Client, engine: Engine) -> None:
    document = {"rules": [RULE, {"action": "x"}, {**RULE, "ports": 0}, [], {**RULE, "nope": 1}, RULE, {"id": "a"}]}
    before = state(engine)
    places = ("#/rules/1/action", "#/rules/2/ports", "#/rules/3", "#/rules/4", "#/rules/5/id", "#/rules/6")
    assert_problem(root.post("/allowlist/import", document), 422, *places)
    text = yaml.safe_dump(document)
    assert_problem(root.request("POST", "/allowlist/import", content=text, headers=YAML), 422, *places)
    for bad, status in (({"rules": {}}, 422), ({"rule": []}, 422), ([], 422)):
        assert_problem(root.post("/allowlist/import", bad), status, "#/rules" if "rules" in bad else "#")
    for broken in ("rules: [", "a: &a {x: 1}\nrules: [{<<: *a}]", "rules: " + "[" * 9999, "x: 1\nx: 2", "\0"):
        answer = root.request("POST", "/allowlist/import", content=broken, headers=YAML)
        assert_problem(answer, 400, "#")
    assert_problem(root.request("POST", "/allowlist/import", content="", headers=YAML), 422, "#")
    assert state(engine) == before


def test_hostile_yaml_is_cheap_to_refuse(root: Client) -> None:
    bomb = "rules:\n- exempt: &l0 [x]\n" + "".join(
        f"- exempt: &l{level} [{','.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 20)
    )
    number = "rules: [{action: allow, ports: [0x" + "f" * 9000 + "]}]"
    began = time.monotonic()
    for text in (bomb, "rules: &r [*r]", "rules: [{action: allow, ports: &p [*p]}]"):
        assert_problem_422(root.request("POST", "/allowlist/import", content=text, headers=YAML))
    answer = root.request("POST", "/allowlist/import", content=number, headers=YAML)
    assert_problem(answer, 400, "#", detail="the body is not valid")
    assert "write a decimal number" in answer.text
    assert time.monotonic() - began < 5


def assert_problem_422(answer: Any) -> None:
    assert answer.status_code == 422, answer.text
    assert len(answer.text) < 10_000


def test_many_rules_are_imported_at_once(root: Client) -> None:
    document = {"rules": [{"action": "allow", "destination": f"h{number}.example.org"} for number in range(2000)]}
    assert root.post("/allowlist/import", document).json()["added"] == 2000
    assert root.get("/policy/versions").json()["items"][0]["added"] == 2000
    exported = json.loads(root.get("/allowlist/export").text)
    assert [each["destination"] for each in exported["rules"]] == [each["destination"] for each in document["rules"]]
