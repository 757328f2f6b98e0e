"""Unknown parameters are refused by name and change nothing, on every operation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy.engine import Engine

from egress.store.policy import audit
from tests.api.conftest import Client, assert_problem


def operations(root: Client) -> Iterator[tuple[str, str, list[str]]]:
    """List for each operation its method, a path, and the names of its query parameters."""
    for path, methods in root.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
            yield method.upper(), re.sub(r"\{[^}]*\}", "1", path), known


def test_every_operation_refuses_what_it_does_not_know(root: Client, engine: Engine) -> None:
    asked = list(operations(root))
    assert len(asked) > 25
    for method, path, known in asked:
        for wrong in ("dryrun", "Limit"):
            body = assert_problem(root.request(method, f"{path}?{wrong}=true"), 422, wrong)
            assert all(name in body["errors"][0]["detail"] for name in known), (method, path)
    with engine.connect() as connection:
        assert audit.latest(connection) == 0


def test_a_misspelt_dry_run_does_not_edit(root: Client) -> None:
    rule = {"action": "allow", "destination": "example.org"}
    assert_problem(root.post("/allowlist?dryrun=true", rule), 422, "dryrun", detail="it must be one of dry_run")
    assert root.get("/policy/current").json()["version"] == 0
    assert root.post("/allowlist?dry_run=true", rule).headers["dry-run"] == "true"


def test_every_one_is_named_and_hostile_names_are_harmless(root: Client) -> None:
    answer = root.get("/flows?limit=1&limt=2&%1b[2J=x&%C3%A9=1&limt=3")
    assert_problem(answer, 422, "limt", "\\x1b[2J", "\\xe9")
