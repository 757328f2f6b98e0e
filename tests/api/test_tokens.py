"""Tokens over HTTP: shown once, no role above their creator's, revoked at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from tests.api.conftest import OUTSIDE, Client, assert_problem

BODY = {"name": "ci", "role": "viewer"}


def test_a_token_is_shown_once(app: FastAPI, root: Client, engine: Engine) -> None:
    made = root.post("/tokens", {**BODY, "agents": ["ci-*"], "expires": "30d"})
    assert made.status_code == 201
    token = made.json()
    secret = token.pop("token")
    assert token["agents"] == ["ci-*"] and token["created_by"] == "uid:0 (root)" and token["expires"] != "forever"
    assert Client(app, OUTSIDE, secret).get("/allowlist").status_code == 200
    assert root.get(made.headers["location"]).json() | {"last_used": None} == token
    everything = root.get("/tokens").text + root.get("/audit").text
    assert secret not in everything and secret.rpartition("_")[2] not in everything
    with engine.connect() as connection:
        tables = connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
        stored = str([connection.execute(sa.text(f'SELECT * FROM "{name}"')).all() for name in tables])
    assert token["id"] in stored and secret.rpartition("_")[2] not in stored


def test_a_repeated_request_makes_one_token_and_keeps_no_secret(root: Client, engine: Engine) -> None:
    first, second = (root.post("/tokens", BODY, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json() | {"token": None} == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert len(root.get("/tokens").json()["items"]) == 1
    with engine.connect() as connection:
        (kept,) = connection.scalars(sa.text("SELECT body FROM idempotency")).all()
    assert first.json()["token"] not in kept


@pytest.mark.parametrize(
    "change, pointer",
    [
        ({"role": "root"}, "#/role"),
        ({"name": ""}, "#/name"),
        ({"name": "a\nb"}, "#"),
        ({"name": 1}, "#/name"),
        ({"agents": []}, "#/agents"),
        ({"agents": ["a"] * 65}, "#/agents"),
        ({"agents": [1]}, "#/agents/0"),
        ({"agents": [""]}, "#"),
        ({"expires": "once"}, "#/expires"),
        ({"expires": "2001-01-01T00:00:00Z"}, "#"),
        ({"expires": "9" * 60}, "#/expires"),
        ({"x": 1}, "#/x"),
    ],
)
def test_a_wrong_field_is_named(root: Client, change: dict[str, object], pointer: str) -> None:
    assert_problem(root.post("/tokens", {**BODY, **change}), 422, pointer)
    assert root.get("/tokens").json()["items"] == []


def test_nobody_gives_more_than_they_have(as_role: Callable[..., Client], root: Client) -> None:
    admin = as_role("admin", "ci-*")
    assert admin.post("/tokens", BODY).json()["agents"] == ["ci-*"], "by default the creator's own scope"
    assert admin.post("/tokens", {**BODY, "agents": ["ci-1"]}).status_code == 201
    for agents in (["*"], ["ci-1", "prod"], ["c*"], ["label:ci"]):
        assert_problem(admin.post("/tokens", {**BODY, "agents": agents}), 403, detail="scope")
    wide = root.post("/tokens", BODY).json()["id"]
    assert_problem(admin.delete(f"/tokens/{wide}"), 404)
    assert wide not in admin.get("/tokens").text
    assert_problem(as_role("editor").post("/tokens", BODY), 403)


def test_revoking(root: Client) -> None:
    token_id = root.post("/tokens", BODY).json()["id"]
    assert root.delete(f"/tokens/{token_id}?dry_run=true").headers["dry-run"] == "true"
    assert root.get(f"/tokens/{token_id}").json()["revoked_at"] is None
    assert root.delete(f"/tokens/{token_id}").json()["revoked_at"] is not None
    assert_problem(root.delete(f"/tokens/{token_id}"), 409)
    assert_problem(root.delete("/tokens/00000000"), 404)
    assert_problem(root.delete("/tokens/x"), 422, "token_id")


def test_pages(root: Client) -> None:
    ids = []
    for _ in range(5):
        ids.append(root.post("/tokens", BODY).json()["id"])
        time.sleep(0.001)
    first = root.get("/tokens?limit=3").json()
    rest = root.get(f"/tokens?limit=3&cursor={first['next']}").json()
    assert [each["id"] for each in first["items"] + rest["items"]] == ids and rest["next"] is None
    assert_problem(root.get("/tokens?cursor=WzFd"), 400, "cursor")
