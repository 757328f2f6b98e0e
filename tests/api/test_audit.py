"""The audit trail over HTTP: its entries, and the check that it is complete."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from tests.api.conftest import Client, assert_problem

RULE = {"action": "allow", "destination": "example.org"}


def test_a_change_is_noted_with_before_and_after(as_role: Callable[..., Client], root: Client) -> None:
    editor = as_role("editor")
    path = f"/allowlist/{editor.post('/allowlist', RULE).json()['id']}"
    editor.patch(path, {"comment": "why"}, headers={"X-Request-Id": "ticket-7"})
    entry = root.get("/audit?limit=1").json()["items"][0]
    assert entry["action"] == "rule.update" and entry["request_id"] == "ticket-7"
    assert entry["actor"].startswith("token:") and entry["actor"].endswith("(a editor)")
    assert "comment" not in entry["before"] and entry["after"]["comment"] == "why"


def test_filters_and_pages(root: Client) -> None:
    for number in range(5):
        root.post("/allowlist", {**RULE, "ports": number + 1})
    root.post("/tokens", {"name": "a", "role": "viewer"})
    assert [each["seq"] for each in root.get("/audit?action=rule.*").json()["items"]] == [5, 4, 3, 2, 1]
    assert root.get("/audit?actor=token:*").json()["items"] == []
    assert root.get("/audit?until=1h").json()["items"] == []
    assert len(root.get("/audit?since=1h").json()["items"]) == 6
    assert len(root.get("/audit?since=2020-01-01T00:00:00Z").json()["items"]) == 6
    page = root.get("/audit?limit=4").json()
    assert [each["seq"] for each in root.get(f"/audit?cursor={page['next']}").json()["items"]] == [2, 1]
    assert_problem(root.get("/audit?since=2020-01-01T00:00:00"), 422, "since")


def test_tampering_shows(root: Client, engine: Engine) -> None:
    for number in range(3):
        root.post("/allowlist", {**RULE, "ports": number + 1})
    whole = root.get("/audit/verify").json()
    assert (whole["count"], whole["broken"]) == (3, None)
    with engine.begin() as connection:
        for trigger in connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
            connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
        connection.execute(sa.text("UPDATE audit SET actor = 'nobody' WHERE seq = 2"))
    broken = root.get("/audit/verify").json()
    assert broken["broken"] == 2 and broken["why"]


def test_it_is_for_unlimited_admins(as_role: Callable[..., Client]) -> None:
    for client in (as_role("editor"), as_role("admin", "ci-*")):
        assert_problem(client.get("/audit"), 403)
        assert_problem(client.get("/audit/verify"), 403)
