"""Versions of the policy: read, compared, restored."""

from __future__ import annotations

from collections.abc import Callable

from tests.api.conftest import Client, assert_problem

ONE, TWO = {"action": "allow", "destination": "one.org"}, {"action": "deny", "destination": "two.org"}


def test_a_fresh_policy_is_version_0(root: Client) -> None:
    answer = root.get("/policy/current")
    assert answer.json() == {"version": 0, "rules": []} == root.get("/policy/versions/0").json()
    assert answer.headers["etag"] == '"0"'
    assert root.get("/policy/versions").json() == {"items": [], "next": None}
    assert root.get("/policy/diff?from=0").json() == {"from": 0, "to": 0, "added": [], "removed": [], "changed": []}


def test_versions_say_what_was_in_force(root: Client) -> None:
    one = root.post("/allowlist", ONE).json()["id"]
    two = root.post("/allowlist", TWO).json()["id"]
    root.patch(f"/allowlist/{two}", {"comment": "no"})
    root.delete(f"/allowlist/{one}")
    ids = [[each["id"] for each in root.get(f"/policy/versions/{n}").json()["rules"]] for n in range(1, 5)]
    assert ids == [[one], [two, one], [two, one], [two]]
    assert root.get("/policy/current").json() == root.get("/policy/versions/4").json()
    found = root.get("/policy/diff?from=1&to=3").json()
    assert [each["id"] for each in found["added"]] == [two] and not found["removed"] and not found["changed"]
    found = root.get("/policy/diff?from=2").json()
    assert found["to"] == 4 and [each["id"] for each in found["removed"]] == [one]
    (changed,) = found["changed"]
    assert "comment" not in changed["before"] and changed["after"]["comment"] == "no"
    pages = root.get("/policy/versions?limit=3").json()
    assert [each["version"] for each in pages["items"]] == [4, 3, 2]
    rest = root.get(f"/policy/versions?cursor={pages['next']}").json()
    assert [each["version"] for each in rest["items"]] == [1] and rest["next"] is None
    assert rest["items"][0]["actor"] == "uid:0 (root)"


def test_who_has_the_current_version_is_spared_it(root: Client) -> None:
    root.post("/allowlist", ONE)
    tag = root.get("/policy/current").headers["etag"]
    answer = root.get("/policy/current", headers={"If-None-Match": tag})
    assert answer.status_code == 304 and not answer.content
    root.post("/allowlist", TWO)
    assert root.get("/policy/current", headers={"If-None-Match": tag}).status_code == 200
    assert_problem(root.get("/policy/current", headers={"If-None-Match": "1"}), 400, "If-None-Match")


def test_going_back_is_a_new_version(root: Client) -> None:
    one = root.post("/allowlist", ONE).json()["id"]
    root.post("/allowlist", TWO)
    root.delete(f"/allowlist/{one}")
    assert_problem(root.post("/policy/rollback", {"version": 1}, headers={"If-Match": '"2"'}), 412)
    done = root.post("/policy/rollback", {"version": 1}, headers={"If-Match": '"3"'})
    assert done.status_code == 200 and done.json()["version"] == 4
    assert [each["id"] for each in root.get("/policy/current").json()["rules"]] == [one]
    again = root.post("/policy/rollback", {"version": 1})
    assert again.json()["version"] == 4, "the policy equals that version already"


def test_what_cannot_be_gone_back_to(root: Client, as_role: Callable[..., Client]) -> None:
    root.post("/allowlist", ONE)
    assert_problem(root.post("/policy/rollback", {"version": 7}), 404)
    assert_problem(root.post("/policy/rollback", {"version": 0}), 422, "#/version")
    assert_problem(root.post("/policy/rollback", {"version": "1"}), 422, "#/version")
    assert_problem(root.post("/policy/rollback", {"version": 1, "x": 1}), 422, "#/x")
    assert_problem(root.post("/policy/rollback", {"version": 2**40}), 422, "#/version")
    assert_problem(root.get("/policy/versions/7"), 404)
    assert_problem(root.get("/policy/diff?from=7"), 404)
    assert_problem(root.get("/policy/diff"), 422, "from")
    assert_problem(as_role("editor", "ci-*").post("/policy/rollback", {"version": 1}), 403, detail="scope")
    assert_problem(as_role("viewer").post("/policy/rollback", {"version": 1}), 403, detail="editor")
