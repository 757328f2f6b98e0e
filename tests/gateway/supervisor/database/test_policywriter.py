"""The policy file of a host: synced under its name, without conflict with other hosts' files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.supervisor.database.policywriter import PolicyFile
from egress.store.database.database import open_database, writing
from egress.store.policy import ruleset

POLICY = "rules:\n  - {id: web, action: allow, destination: any, ports: 443}\n"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = open_database(f"sqlite:///{tmp_path / 'egress.db'}")
    with writing(engine) as opened:
        yield opened
    engine.dispose()


def sync(connection: Connection, path: Path, host: str, text: str = POLICY) -> None:
    path.write_text(text)
    file = PolicyFile(Config(host=host), path)
    file.sync(connection, file.read())


def live(connection: Connection) -> list[tuple[str, str]]:
    found = ruleset.list_rules(connection, ruleset.RuleFilter(source=ruleset.FILE), None, 9)
    return sorted((each.rule.id, each.host) for each in found)


def test_the_same_file_on_every_host(connection: Connection, tmp_path: Path) -> None:
    for _ in range(2):
        for host in ("gpu-1", "gpu-2"):
            sync(connection, tmp_path / host, host)
    assert live(connection) == [("gpu-1:web", "gpu-1"), ("gpu-2:web", "gpu-2")]
    assert ruleset.current(connection) == 2, "no host undoes another host's rules"
    sync(connection, tmp_path / "gpu-1", "gpu-1", "rules: []\n")
    assert live(connection) == [("gpu-2:web", "gpu-2")]


def test_a_gateway_that_has_the_database_for_itself_keeps_the_ids_of_its_file(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "one")
    sync(connection, tmp_path / "one", "")
    assert live(connection) == [("web", "one")]
    monkeypatch.setattr("platform.node", lambda: "two")
    with pytest.raises(EgressError, match=r"of the policy file of host one; several gateways .* each need a `host`"):
        sync(connection, tmp_path / "two", "")
    monkeypatch.setattr("platform.node", lambda: "one")
    sync(connection, tmp_path / "one", "one")
    assert live(connection) == [("one:web", "one")], "with a name its rules have other ids, once each"
