"""Errors in requests: one shape for all, the place named, nothing changed, and never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from api import etags, paging, strictjson, times
from api.app import create_app
from api.auth import PUBLIC
from api.gate import MAX_BODY
from api.problems import ProblemError
from egress.config import Config
from egress.store.policy import audit
from tests.api.conftest import OUTSIDE, Client, assert_problem

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body, why",
    [
        ("{", "Expecting"),
        ('{"action": "allow", "action": "deny"}', "given twice"),
        ('{"action": NaN}', "NaN"),
        ('{"action": 1e999}', "too large"),
        ('{"action": "\\ud800"}', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ("[" * 100_000 + "]" * 100_000, "deep"),
        ("[" * 33 + "]" * 33, "deep"),
        ("9" * 5000, "digits"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"a":1}'.encode("utf-16"), "UTF-8"),
    ],
)
def test_a_body_that_is_not_json(root: Client, body: str | bytes, why: str) -> None:
    answer = root.request("POST", "/allowlist", content=body, headers=JSON)
    assert_problem(answer, 400, "#", detail=why)


def test_a_body_of_another_type(root: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/yaml", ""):
        answer = root.request("POST", "/allowlist", content="action=allow", headers={"Content-Type": kind})
        assert_problem(answer, 415, detail="application/json")
    assert_problem(root.post("/allowlist", []), 422, "#")
    assert_problem(root.post("/allowlist"), 422, "#")


def test_a_body_that_is_too_large(root: Client) -> None:
    assert_problem(root.request("POST", "/allowlist", content=b" " * (MAX_BODY + 1), headers=JSON), 413)
    answer = root.request("POST", "/allowlist", content=b"", headers={**JSON, "Content-Length": str(1 << 40)})
    assert_problem(answer, 413)
    assert_problem(root.request("POST", "/allowlist", content=b"", headers={**JSON, "Content-Length": "x"}), 400)


def test_a_body_without_length_is_bounded_all_the_same(app: FastAPI) -> None:
    import asyncio

    import httpx

    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 4 * MAX_BODY:
            sent += 1 << 20
            yield b" " * (1 << 20)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=("unix:0", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://egress") as client:
            return await client.post("/api/v1/allowlist", content=endless(), headers=JSON)

    assert_problem(asyncio.run(post()), 413)
    assert sent <= MAX_BODY + (2 << 20)


def test_parameters_are_named(root: Client) -> None:
    assert_problem(root.get("/allowlist?limit=0"), 422, "limit")
    assert_problem(root.get("/allowlist?limit=x&action=maybe"), 422, "action", "limit")
    assert_problem(root.get("/allowlist?cursor=%FF"), 400, "cursor")
    assert_problem(root.get(f"/allowlist?q={'x' * 300}"), 422, "q")
    assert_problem(root.get("/audit?since=yesterday"), 422, "since", detail="time zone")
    assert_problem(root.get("/policy/versions/99999999999999999999"), 422, "version")
    assert_problem(root.get("/allowlist?q=%00"), 400)
    assert_problem(root.get("/allowlist/a%00b"), 400)


def test_unknown_places_and_methods(root: Client) -> None:
    assert_problem(root.get("/nowhere"), 404)
    answer = root.request("TRACE", "/allowlist")
    assert_problem(answer, 405)
    assert "GET" in answer.headers["allow"]


def test_our_own_failure_is_answered_without_details(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("the secret reason")

    app.add_api_route("/api/v1/failing", fail)
    answer = Client(app).get("/failing", headers={"X-Request-Id": "looking-for-it"})
    body = assert_problem(answer, 500)
    assert "secret" not in answer.text and body["request_id"] == "looking-for-it"
    assert "the secret reason" in caplog.text and "looking-for-it" in caplog.text


def test_without_the_database_everything_waits(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path / "missing", run_dir=tmp_path)
    client = Client(create_app(config), OUTSIDE, "egress_00000000_" + "a" * 43)
    answer = client.get("/allowlist")
    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert_problem(Client(client.app).post("/allowlist", {"action": "deny"}), 503)
    (tmp_path / "missing").mkdir()
    assert Client(client.app).get("/allowlist").status_code == 200


def test_request_ids_are_kept_or_made(root: Client, engine: Engine) -> None:
    assert root.get("/allowlist", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a" * 65, "a b", "é".encode("latin-1")):
        assert root.get("/allowlist", headers={"X-Request-Id": bad}).headers["x-request-id"] not in (bad, "")
    root.post("/allowlist", {"action": "deny"}, headers={"X-Request-Id": "mine"})
    with engine.connect() as connection:
        assert audit.entries(connection, limit=1)[0].request_id == "mine"


def test_answers_are_not_cached_or_sniffed(root: Client) -> None:
    headers = root.get("/allowlist").headers
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"


def test_every_operation_documents_itself_and_its_problems(app: FastAPI) -> None:
    document = Client(app, OUTSIDE).get("/openapi.json").json()
    seen = set()
    for path, operation in operations(document):
        assert operation["summary"] and operation["tags"], path
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        if path not in PUBLIC:
            assert operation["security"] == [{"token": []}], path
            assert "application/problem+json" in operation["responses"]["401"]["content"]
    assert len(seen) > 15
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for name in set(_references(document)):
        assert name in document["components"]["schemas"], name


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for below in value.values():
            yield from _references(below)
    elif isinstance(value, list):
        for below in value:
            yield from _references(below)


def _value_or(error: type[Exception], function: Callable[[], object]) -> object:
    try:
        return function()
    except error:
        return None


@given(st.one_of(st.binary(max_size=200), st.text(alphabet='[]{}":,0eN\\ud8', max_size=60).map(str.encode)))
def test_json_is_read_or_refused(body: bytes) -> None:
    value = _value_or(ValueError, lambda: strictjson.loads(body))
    if value is not None:
        json.dumps(value, allow_nan=False).encode("utf-8")


@given(st.text(max_size=80))
def test_cursors_and_tags_are_read_or_refused(text: str) -> None:
    _value_or(ProblemError, lambda: paging.decode(text, int, str))
    _value_or(ProblemError, lambda: etags.parse("If-Match", text))
    _value_or(ProblemError, lambda: times.moment("since", text, 0.0))


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_cursor_comes_back(number: int, text: str) -> None:
    assert paging.decode(paging.encode([number, text]), int, str) == (number, text)


@pytest.mark.parametrize(
    "values", [[1], ["1", "a"], [1, "a", 2], [2**63, "a"], [True, "a"], [1, "\0"], [1, "\ud800"], {}]
)
def test_a_foreign_cursor_is_refused(values: list[object]) -> None:
    with pytest.raises(ProblemError) as caught:
        paging.decode(paging.encode(values), int, str)
    assert caught.value.status == 400
