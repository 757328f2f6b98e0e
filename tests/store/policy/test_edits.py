"""Any edits at all, against a model that keeps every version of the policy whole."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Policy, Rule
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.policy import audit, ruleset
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.policy.ruleset import RuleFilter
from tests.examples import examples
from tests.policy.test_file import rules as any_rule

ROOT = Actor("uid:0 (root)")
NOW = 1_795_446_362.25

_ids = st.sampled_from(["a", "b", "c", "d", "e"])
_small = st.builds(
    Rule, _ids, st.sampled_from([Action.ACCEPT, Action.REJECT]), destination=st.sampled_from(["any", "192.0.2.7"]),
    once=st.booleans(), comment=st.sampled_from(["", "x"]),
)  # fmt: skip
_lists = st.lists(_small | any_rule, max_size=3, unique_by=lambda rule: rule.id)
_steps = st.one_of(
    st.tuples(st.just("add"), _lists),
    st.tuples(st.just("remove"), st.lists(_ids, max_size=2)),
    st.tuples(st.just("replace"), _ids, _small),
    st.tuples(st.just("sync"), st.sampled_from(["file", "sandbox:rome"]), _lists),
    st.tuples(st.just("restore"), st.integers(1, 6)),
)
_edits = st.lists(st.lists(_steps, min_size=1, max_size=3), max_size=8)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60), deadline=None)
@given(edits=_edits)
def test_any_edits(sqlite_engine: Engine, edits: list[list[tuple[object, ...]]]) -> None:
    model: dict[int, tuple[Rule, ...]] = {}
    live: dict[str, Rule] = {}
    with sqlite_engine.connect() as connection, connection.begin() as transaction:
        for number, steps in enumerate(edits):
            edit = Edit(connection, ROOT, NOW + number)
            for name, *arguments in steps:
                try:
                    _step(connection, edit, str(name), arguments, live)
                except (ConflictError, NotFoundError):
                    continue
            if edit.version == len(model) + 1:
                model[edit.version] = tuple(sorted(live.values(), key=lambda rule: (rule.position, rule.id)))
            assert edit.version == len(model) == ruleset.current(connection)
        _compare(connection, model)
        assert audit.verify(connection).broken is None
        transaction.rollback()


def _step(connection: Connection, edit: Edit, name: str, arguments: list[object], live: dict[str, Rule]) -> None:
    """Run an operation, and update the model by its documented effect alone."""
    if name == "add":
        live |= {each.rule.id: each.rule for each in edit.add(arguments[0])}  # type: ignore[arg-type]
    elif name == "remove":
        for each in edit.remove(arguments[0]):  # type: ignore[arg-type]
            del live[each.rule.id]
    elif name == "replace":
        each = edit.replace(*arguments)  # type: ignore[arg-type]
        live[each.rule.id] = each.rule
    else:
        source = str(arguments[0]) if name == "sync" else "allowlist"
        before = {each.rule.id for each in ruleset.list_rules(connection, RuleFilter(source=source), None, 99)}
        getattr(edit, name)(*arguments)
        for gone in before:
            del live[gone]
        found = ruleset.list_rules(connection, RuleFilter(source=source), None, 99)
        live |= {each.rule.id: each.rule for each in found}
        if name == "sync":
            wanted = [(rule.id, rule.destination, rule.comment) for rule in arguments[1]]  # type: ignore[attr-defined]
            assert [(each.rule.id, each.rule.destination, each.rule.comment) for each in found] == wanted


def _compare(connection: Connection, model: dict[int, tuple[Rule, ...]]) -> None:
    newest = max(model, default=0)
    for version, wanted in model.items():
        assert ruleset.snapshot(connection, version) == Policy(version, wanted)
        change = ruleset.changes(connection, version)
        applied = {rule.id: rule for rule in wanted if rule.id not in change.removed}
        applied |= {rule.id: rule for rule in change.added}
        assert sorted(applied.values(), key=lambda rule: (rule.position, rule.id)) == list(model[newest])
        assert (change.base, change.version) == (version, newest)
        there = ruleset.diff(connection, version, newest)
        assert {each.rule.id for each in there.added} == {rule.id for rule in model[newest]} - {
            rule.id for rule in wanted
        }
