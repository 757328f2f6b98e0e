"""Edits: made once for each Idempotency-Key, not at all in a dry run, and as a whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from egress.store.database.database import writing
from egress.store.policy import audit, ruleset
from tests.api.conftest import Client, assert_problem

RULE = {"action": "allow", "destination": "example.org"}
KEY = {"Idempotency-Key": "7d1e"}


def test_a_repeated_request_is_answered_and_not_repeated(root: Client) -> None:
    first, second = (root.post("/allowlist", RULE, headers=KEY) for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    for name in ("etag", "location", "content-type"):
        assert first.headers[name] == second.headers[name]
    assert len(root.get("/allowlist").json()["items"]) == 1
    path = first.headers["location"]
    gone = [root.delete(path, headers={"Idempotency-Key": "b"}) for _ in range(2)]
    assert [each.status_code for each in gone] == [204, 204] and not gone[1].content


def test_a_key_belongs_to_one_request_of_one_caller(root: Client, as_role: Callable[..., Client]) -> None:
    root.post("/allowlist", RULE, headers=KEY)
    assert_problem(root.post("/allowlist", {**RULE, "ports": 1}, headers=KEY), 422, "Idempotency-Key")
    assert_problem(root.post("/allowlist/import", {"rules": []}, headers=KEY), 422, "Idempotency-Key")
    other = as_role("editor").post("/allowlist", {**RULE, "ports": 2}, headers=KEY)
    assert other.status_code == 201 and "idempotent-replayed" not in other.headers


def test_what_failed_may_be_tried_again(root: Client) -> None:
    first = root.post("/allowlist", {**RULE, "id": "a"}).json()["id"]
    assert_problem(root.post("/allowlist", RULE, headers=KEY), 409)
    root.delete(f"/allowlist/{first}")
    assert root.post("/allowlist", RULE, headers=KEY).status_code == 201


def test_an_answer_is_kept_for_a_day(root: Client, engine: Engine) -> None:
    made = root.post("/allowlist", RULE, headers=KEY)
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE idempotency SET created = created - 86401000000"))
    root.delete(made.headers["location"])
    assert "idempotent-replayed" not in root.post("/allowlist", RULE, headers=KEY).headers
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM idempotency")) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "é".encode("latin-1"), "a\tb"])
def test_malformed_keys(root: Client, key: str | bytes) -> None:
    answer = root.post("/allowlist", RULE, headers={"Idempotency-Key": key})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["errors"][0]["parameter"].lower() == "idempotency-key"


def test_equal_requests_at_the_same_moment_are_one_change(app: FastAPI, root: Client) -> None:
    answers: list[httpx.Response] = []
    barrier = threading.Barrier(6)

    def post() -> None:
        barrier.wait()
        answers.append(Client(app).post("/allowlist", RULE, headers=KEY))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.status_code for each in answers} == {201}
    assert len({each.text for each in answers}) == 1
    assert sum("idempotent-replayed" in each.headers for each in answers) == 5
    assert len(root.get("/allowlist").json()["items"]) == 1


def test_for_show(root: Client, engine: Engine) -> None:
    shown = root.post("/allowlist?dry_run=true", RULE, headers=KEY)
    assert shown.status_code == 201 and shown.headers["dry-run"] == "true"
    assert shown.json()["destination"] == "example.org"
    with engine.connect() as connection:
        assert ruleset.current(connection) == 0 == audit.latest(connection)
    done = root.post("/allowlist", RULE, headers=KEY)
    assert done.status_code == 201 and "dry-run" not in done.headers
    assert_problem(root.post("/allowlist?dry_run=true", RULE), 409)
    assert_problem(root.post("/allowlist?dry_run=maybe", RULE), 422, "dry_run")
