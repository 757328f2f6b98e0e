"""Policy versions: a new one only for new rules, with what it changed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.model import Action, Policy, Rule
from egress.store.database import writing
from egress.store.policies import policy, record_policy
from egress.store.tables import policies, rule_changes
from tests.test_policyfile import rules as any_rule

SSH = Rule("ssh", Action.ACCEPT, destination="192.0.2.0/24", protocol="tcp", ports=((22, 22), (2200, 2299)), app="ssh")
NAMED = Rule(
    "named",
    Action.ACCEPT,
    agent="label:gpu",
    destination="**.example.org",
    unnamed=True,
    expires_at=1_896_091_200.000001,
    once=True,
    author="ops",
    created=1_795_446_362.25,
)
WEB = Rule("web", Action.ACCEPT, ports=((443, 443),), exempt=("beacon.*",), comment="über")


def test_versions_and_changes(engine: Engine) -> None:
    assert policy(engine) is None
    version, changes = record_policy(engine, (SSH,), "root", 100.0)
    assert (version, [(change.change, change.rule_id) for change in changes]) == (1, [("added", "ssh")])
    assert record_policy(engine, (SSH,), "root", 200.0) == (1, ())
    version, changes = record_policy(engine, (WEB,), "root", 300.0)
    assert version == 2
    assert [(change.change, change.rule_id) for change in changes] == [("removed", "ssh"), ("added", "web")]
    assert json.loads(changes[1].rule)["comment"] == "über"
    assert record_policy(engine, (SSH,), "root", 400.0)[0] == 3
    assert policy(engine, 1) == Policy(1, (SSH,))
    assert policy(engine) == Policy(3, (SSH,))
    assert policy(engine, 9) is None
    with engine.connect() as connection:
        assert len(connection.execute(rule_changes.select()).all()) == 5


def test_an_edited_rule_is_removed_and_added(engine: Engine) -> None:
    record_policy(engine, (SSH,), "root", 100.0)
    edited = Rule("ssh", Action.REJECT)
    _, changes = record_policy(engine, (edited,), "root", 200.0)
    assert [(change.change, change.rule_id) for change in changes] == [("removed", "ssh"), ("added", "ssh")]


def test_every_field_of_a_rule_comes_back(engine: Engine) -> None:
    spoken = {field.name for rule in (SSH, WEB, NAMED) for field in fields(Rule) if getattr(rule, field.name)}
    assert spoken == {field.name for field in fields(Rule)}
    record_policy(engine, (SSH, WEB, NAMED), "root", 1.0)
    assert policy(engine) == Policy(1, (SSH, WEB, NAMED))


def test_a_document_of_an_older_version_is_read(engine: Engine) -> None:
    """Before names there were neither `unnamed` nor what follows it; the rule means what it meant."""
    old = (
        '[{"id": "ssh", "action": "accept", "agent": "*", "destination": "192.0.2.0/24", "protocol": "tcp",'
        ' "ports": [[22, 22], [2200, 2299]], "app": "ssh", "exempt": [], "comment": ""}]'
    )
    row = {"version": 1, "sha256": "", "created": 1.0, "actor": "root", "document": old}
    with writing(engine) as connection:
        connection.execute(policies.insert(), row)
    assert policy(engine) == Policy(1, (SSH,))
    assert record_policy(engine, (SSH,), "root", 2.0) == (1, ())


def test_an_edit_of_a_long_policy_takes_no_time_to_speak_of(engine: Engine) -> None:
    long = tuple(Rule(f"r{number}", Action.ACCEPT, ports=((number, number),)) for number in range(1, 10_001))
    record_policy(engine, long, "root", 1.0)
    began = time.process_time()
    _, changes = record_policy(engine, (*reversed(long[1:]), WEB), "root", 2.0)
    assert [(change.change, change.rule_id) for change in changes] == [("removed", "r1"), ("added", "web")]
    assert time.process_time() - began < 5  # comparing each with each would take a minute


def test_an_empty_policy_is_a_policy(engine: Engine) -> None:
    assert record_policy(engine, (), "root", 1.0) == (1, ())
    assert policy(engine) == Policy(1, ())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(wanted=st.lists(any_rule, max_size=4, unique_by=lambda rule: rule.id))
def test_any_rules_come_back(engine: Engine, wanted: list[Rule]) -> None:
    version, _ = record_policy(engine, tuple(wanted), "root", 1.0)
    assert policy(engine, version) == Policy(version, tuple(wanted))
    assert record_policy(engine, tuple(wanted), "root", 2.0) == (version, ())
    with writing(engine) as connection:
        connection.execute(policies.delete())
        connection.execute(rule_changes.delete())


def test_at_the_same_time_one_version_is_made(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: record_policy(engine, (SSH, WEB), "root", 1.0), range(4)))
    assert sorted(len(changes) for _, changes in results) == [0, 0, 0, 2]
    assert {version for version, _ in results} == {1}
