"""/healthz, /readyz, /metrics: health checks with and without a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import Engine

from api.app import create_app
from egress.config import Config
from egress.store.database.database import writing
from egress.store.policy import gateways
from tests.api.conftest import OUTSIDE, Client, assert_problem

AsRole = Callable[..., Client]


def test_anybody_may_ask_whether_it_lives(root: Client) -> None:
    stranger = Client(root.app, OUTSIDE)
    assert stranger.get("/healthz").json() == {"status": "ok"}
    assert stranger.get("/readyz").json() == {"status": "ready", "database": "ok"}
    assert_problem(stranger.get("/metrics"), 401)


def test_it_is_not_ready_while_the_database_is_away(tmp_path: Path) -> None:
    state = tmp_path / "state"
    client = Client(create_app(Config(state_dir=state, run_dir=tmp_path)))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "database": "away"})
    assert answer.headers["retry-after"]
    assert client.get("/healthz").status_code == 200
    assert "egress_up 0.0" in client.get("/metrics").text, "the gateway's own figures need no database"
    for path in ("/agents", "/flows", "/approvals", "/stream"):
        assert_problem(client.get(path), 503)
    state.mkdir()
    assert client.get("/readyz").status_code == 200
    assert client.get("/agents").json() == {"items": [], "next": None}
    client.app.state.database.close()


def test_a_database_that_a_newer_version_has_migrated_is_not_edited(engine: Engine, root: Client) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'next'")
    assert root.get("/readyz").status_code == 503
    rule = {"action": "allow", "destination": "example.org"}
    assert_problem(root.post("/allowlist", rule), 503, detail="a newer egress has migrated the database (schema next)")
    assert root.get("/allowlist").json()["items"] == []


def test_metrics_are_read_by_prometheus(engine: Engine, root: Client, as_role: AsRole) -> None:
    root.post("/agents", {"name": "rome-7", "kind": "netns", "value": "rome"})
    root.post("/agents/rome-7/quarantine")
    with writing(engine) as connection:
        gateways.claim(connection, "gpu-1", "a", "here", "0.1.0")
        gateways.beat(connection, "gpu-1", "a", 1, 1)
    root.post("/allowlist", {"action": "allow", "destination": "example.org"})
    answer = as_role("viewer").get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {each.name: each for each in text_string_to_metric_families(answer.text)}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values["egress_up"] == 0
    assert values["egress_gateway_up"] == 1 == values["egress_gateway_policy_version"]
    assert (values["egress_rules"], values["egress_policy_version_stored"]) == (1, 1)
    assert (values["egress_agents_quarantined"], values["egress_approvals_pending"]) == (1, 0)
    assert values["egress_audit_entries"] >= 3
    assert (values["egress_pruned"], values["egress_oldest_record_timestamp_seconds"]) == (0, 0)
    assert (
        values["egress_database_bytes"] > values["egress_database_free_bytes"] >= values["egress_evidence_bytes"] == 0
    )
    assert_problem(as_role("gateway").get("/metrics"), 403)
    assert_problem(as_role("viewer", "ci-*").get("/metrics"), 403, detail="ci-*")


def test_a_directory_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "egress.db").write_bytes(b"no database" * 100)
    client = Client(create_app(replace(Config(), state_dir=tmp_path, run_dir=tmp_path)))
    assert client.get("/readyz").status_code == 503
    assert_problem(client.get("/agents"), 503, detail="cannot use database")


def test_a_database_that_was_moved_is_not_created_again(tmp_path: Path) -> None:
    """A gateway has run here, so there was a database: a new, empty one would have no agent and no rule."""
    config = Config(state_dir=tmp_path, run_dir=tmp_path)
    config.policy_snapshot.write_text("{}")
    client = Client(create_app(config))
    assert client.get("/readyz").status_code == 503
    assert_problem(
        client.post("/allowlist", {"action": "allow", "destination": "example.org"}), 503, detail="no database"
    )
    assert not (tmp_path / "egress.db").exists()
