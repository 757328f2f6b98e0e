"""The OpenAPI document matches the API, for every role: schemathesis sends valid and invalid requests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy.engine import Engine

from api.app import create_app
from egress.config import Api, Config
from egress.model import Action, Rule
from egress.store.database.database import writing
from egress.store.policy import audit, tokens
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.api.conftest import Client

CHECKS = [
    negative_data_rejection,
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = "/api/v1/stream"
EXAMPLES = 4  # requests an operation and kind, each made with every role
READERS = ("gateway", "viewer")
WRITERS = ("approver", "editor", "admin")


@pytest.fixture
def app(config: Config, engine: Engine) -> FastAPI:
    """An application that keeps answering after many failed logins."""
    return create_app(dataclasses.replace(config, api=Api(failures=10**6)), engine)


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
def test_every_operation_keeps_to_the_document(
    app: FastAPI, engine: Engine, root: Client, as_role: Callable[..., Client], mode: GenerationMode
) -> None:
    root.post("/allowlist", {"action": "allow", "destination": "example.org"})
    root.post("/allowlist", {"action": "deny"})
    readers, writers = ([as_role(role) for role in roles] for roles in (READERS, WRITERS))
    nothing_wrong = []  # operations without parameters or body
    asked = operations(root)
    assert len(asked) > 25
    for operation in asked:

        @settings(
            max_examples=EXAMPLES, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case[Any]) -> None:
            before = noted(engine)
            for client in readers:
                case.validate_response(send(client, case), checks=CHECKS)
            assert noted(engine) == before, "a role that may only read has changed something"
            for client in writers:
                case.validate_response(send(client, case), checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE
            nothing_wrong.append(operation.path)
    assert len(nothing_wrong) < 12, nothing_wrong


def test_what_succeeds_is_as_the_document_says(root: Client, engine: Engine) -> None:
    rule = {"action": "allow", "destination": "example.org", "ports": [22, "80-90"], "expires": "1h", "comment": "x"}
    with writing(engine) as connection:
        Edit(connection, Actor("gateway"), time.time()).sync("file", [Rule("filed", Action.REJECT)])
    asked: list[tuple[str, str, str, object]] = [
        ("POST", "/allowlist", "/allowlist", {**rule, "id": "a"}),
        ("PUT", "/allowlist/{rule_id}", "/allowlist/a", {**rule, "protocol": 17, "exempt": ["ssh.*"]}),
        ("PATCH", "/allowlist/{rule_id}", "/allowlist/a", {"ports": None, "comment": None, "protocol": None}),
        ("POST", "/allowlist/import", "/allowlist/import?mode=merge", {"rules": [rule]}),
        ("GET", "/allowlist", "/allowlist", None),
        ("GET", "/allowlist/{rule_id}", "/allowlist/filed", None),
        ("GET", "/allowlist/export", "/allowlist/export", None),
        ("GET", "/allowlist/export", "/allowlist/export?format=yaml", None),
        ("GET", "/policy/current", "/policy/current", None),
        ("GET", "/policy/versions", "/policy/versions", None),
        ("GET", "/policy/versions/{version}", "/policy/versions/2", None),
        ("GET", "/policy/diff", "/policy/diff?from=1", None),
        ("GET", "/policy/diff", "/policy/diff?from=2&to=4", None),
        ("POST", "/policy/rollback", "/policy/rollback", {"version": 2}),
        ("DELETE", "/allowlist", "/allowlist?unused_for=1h", None),
        ("DELETE", "/allowlist/{rule_id}", "/allowlist/a", None),
        ("POST", "/tokens", "/tokens", {"name": "t", "role": "viewer"}),
        ("GET", "/tokens", "/tokens", None),
        ("GET", "/audit", "/audit", None),
        ("GET", "/audit/verify", "/audit/verify", None),
    ]
    known = {(operation.method.upper(), operation.path): operation for operation in operations(root)}
    for method, path, url, body in asked:
        answer = root.request(method, url, **({} if body is None else {"json": body}))
        assert answer.is_success, (method, url, answer.text)
        known[method, f"/api/v1{path}"].validate_response(answer)


def operations(root: Client) -> list[Any]:
    """All operations but /stream, which does not end."""
    document = root.get("/openapi.json").json()
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)  # the test sends the tokens; schemathesis must not omit them
    loaded = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in loaded.get_all_operations()]  # type: ignore[union-attr]
    return [operation for operation in found if operation.path != ENDLESS]


def send(client: Client, case: schemathesis.Case[Any]) -> httpx.Response:
    wanted: dict[str, Any] = case.as_transport_kwargs(base_url="http://egress")
    wanted.pop("timeout", None)
    sent = requests.Request(**wanted).prepare()
    headers = {name: value for name, value in sent.headers.items() if name.lower() != "authorization"}
    return client.request(str(sent.method), sent.path_url, headers=headers, content=sent.body or b"")


def noted(engine: Engine) -> tuple[int, list[str]]:
    with engine.connect() as connection:
        return audit.latest(connection), [token.id for token in tokens.listed(connection)]
