"""The policy snapshot on disk: a complete file written by egress; any other is refused."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.errors import EgressError
from egress.gateway.supervisor import snapshot
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import Action, Rule
from egress.store.policy.agents import StoredAgent
from tests.gateway.pipe.test_messages import AGENT, RULE
from tests.policy.test_file import rules

SAMPLE = Snapshot(7, 31, (RULE,), (StoredAgent(AGENT, "netns", "trainer", 12.5),))


def saved(path: Path, what: Snapshot) -> bytes:
    asyncio.run(snapshot.write(path, what))
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rules, max_size=3))
def test_it_comes_back_as_it_was(tmp_path: Path, listed: list[Rule]) -> None:
    path = tmp_path / "policy.json"
    what = Snapshot(1, 2, (RULE, *listed), SAMPLE.agents)
    saved(path, what)
    assert snapshot.read(path) == what


@pytest.mark.parametrize("count", [0, 1, snapshot.SLICE, snapshot.SLICE + 1, 2 * snapshot.SLICE])
def test_any_number_of_rules_makes_one_json_document(tmp_path: Path, count: int) -> None:
    path = tmp_path / "policy.json"
    what = Snapshot(1, 2, tuple(Rule(f"r{number}", Action.ACCEPT) for number in range(count)))
    document = json.loads(saved(path, what))
    assert len(document["rules"]) == count
    assert snapshot.read(path) == what


def test_only_its_owner_may_read_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    saved(tmp_path / "policy.json", SAMPLE)
    saved(tmp_path / "policy.json", SAMPLE)
    (only,) = tmp_path.iterdir()
    assert stat.S_IMODE(only.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    saved(path, SAMPLE)
    (tmp_path / "policy.json.new").mkdir()
    with pytest.raises(OSError):
        asyncio.run(snapshot.write(path, Snapshot(8, 32)))
    assert snapshot.read(path) == SAMPLE


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert snapshot.read(tmp_path / "policy.json") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_was_damaged_anywhere_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "policy.json"
    whole = saved(path, SAMPLE)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at] + whole[at + 1 :]]
        )
    )
    path.write_bytes(damaged)
    with pytest.raises(EgressError, match=r"policy\.json is damaged and cannot be used; move it away"):
        snapshot.read(path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    whole = saved(path, SAMPLE)
    sealed = whole.rpartition(b',"sha256"')[0].replace(b'"unnamed":', b'"nameless":')
    path.write_bytes(sealed + snapshot.seal(sealed))
    with pytest.raises(EgressError, match="of another version"):
        snapshot.read(path)
