"""The stages of a flow: the table of moves, the answer after each, and the modules that may make them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.engine import stage
from egress.engine.flow import Flow
from egress.engine.stage import KERNEL_SETTLED, MOVES, Life, Move, MoveError, Stage
from egress.model import Action, Mode, Reason, Verdict
from tests.traffic import agent

ENGINE = Path(stage.__file__).parent
ACCEPT, REJECT = Verdict(Action.ACCEPT, Reason.DEFAULT), Verdict(Action.REJECT, Reason.DEFAULT)
HOLD = Verdict(Action.HOLD, Reason.APPROVAL, packet_only=True)


def life(mode: Mode = Mode.ENFORCE) -> Life:
    return Life(agent(mode=mode), partial=False)


def answer(one: Life) -> tuple[Stage, Action, bool]:
    return one.stage, one.outcome.verdict.action, one.outcome.verdict.settled


def test_every_stage_has_its_row_and_can_be_reached_and_left() -> None:
    assert set(MOVES) == set(Stage)
    reached = {target for moves in MOVES.values() for target in moves.values()}
    assert reached == set(Stage) - {Stage.NEW}
    assert [one for one in Stage if not MOVES[one]] == [Stage.FORGOTTEN]
    assert {move for moves in MOVES.values() for move in moves} == set(Move)


def test_a_refused_flow_neither_waits_nor_settles() -> None:
    refused = life()
    assert [refused.decide(REJECT) for _ in range(3)] == [True, False, False], "the first refusal is counted alone"
    with pytest.raises(MoveError, match="a flow that is refused cannot wait"):
        refused.decide(HOLD, "0123456789abcdef")
    with pytest.raises(MoveError, match="a flow that is refused cannot settle"):
        refused.settle(listening=False)


def test_a_monitored_flow_is_refused_on_record_only_and_inspected_again() -> None:
    watched = life(Mode.MONITOR)
    watched.decide(ACCEPT)
    watched.settle(listening=False)
    assert answer(watched) == (Stage.SETTLED, Action.ACCEPT, True)
    watched.decide(REJECT)
    assert answer(watched) == (Stage.UNDECIDED, Action.ACCEPT, False)
    assert watched.verdict.action is Action.REJECT
    watched.adopt(agent(mode=Mode.MONITOR, quarantined=True))
    watched.decide(REJECT)
    assert answer(watched) == (Stage.REFUSED, Action.REJECT, False)


def test_a_settled_flow_keeps_its_place_in_the_kernel_when_it_is_judged_again() -> None:
    one = life()
    one.decide(ACCEPT)
    one.settle(listening=True)
    one.decide(Verdict(Action.ACCEPT, Reason.RULE, "r1"))
    assert answer(one) == (Stage.LISTENING, Action.ACCEPT, True) and one.verdict == one.outcome.verdict
    one.settle(listening=False)
    one.reopen()
    assert answer(one) == (Stage.UNDECIDED, Action.ACCEPT, False) and one.partial


def test_a_hold_ends_with_the_next_verdict() -> None:
    one = life(Mode.ASK)
    one.decide(HOLD, "0123456789abcdef")
    assert (one.stage, one.hold, one.outcome.verdict) == (Stage.HELD, "0123456789abcdef", HOLD)
    one.decide(ACCEPT)
    assert (one.stage, one.hold) == (Stage.UNDECIDED, "")


STEPS = {
    "pass": lambda one: one.decide(ACCEPT),
    "wait": lambda one: one.decide(HOLD, "0123456789abcdef"),
    "refuse": lambda one: one.decide(REJECT),
    "listen": lambda one: one.settle(listening=True),
    "settle": lambda one: one.settle(listening=False),
    "reopen": lambda one: one.reopen(),
    "forget": lambda one: one.forget(),
}


@given(st.sampled_from(list(Mode)), st.lists(st.sampled_from(sorted(STEPS)), max_size=12))
def test_answer_and_stage_agree_after_any_moves(mode: Mode, steps: list[str]) -> None:
    """An illegal move raises and changes nothing; after a legal one the answer is the stage's."""
    one = life(mode)
    for step in steps:
        before = one.stage, one.verdict, one.outcome, one.hold
        try:
            STEPS[step](one)
        except MoveError:
            assert before == (one.stage, one.verdict, one.outcome, one.hold)
            continue
        action = one.outcome.verdict.action
        assert one.outcome.verdict.settled is one.verdict.settled
        if one.stage is not Stage.FORGOTTEN:
            assert one.verdict.settled is (one.stage in KERNEL_SETTLED)
            assert (action is Action.HOLD) is (one.stage is Stage.HELD) is bool(one.hold)
            assert (action is Action.REJECT) is (one.stage is Stage.REFUSED)


# --- who writes a flow ----------------------------------------------------------------------------------

WRITERS = {  # attributes of a flow that one other module writes, and why
    "conformance.py": {"excluded", "framings", "records", "vouched"},  # the protocols that it may be
    "judge.py": {"demanded", "hidden", "names", "rule", "said"},  # the fields that rules match
    "queries.py": {"wants"},  # the name that a query on hold asks for
    "reassembly.py": {"dissector", "streams", "turns"},  # the readers of its bytes
    "tracker.py": {"moved"},  # its place in its table
    "verdicts.py": {"due"},  # why it waits to be judged again
}


def _written(path: Path, *, own: bool) -> set[str]:
    """The attributes that a module assigns, on `self` (`own`) or on other objects."""
    nodes = ast.walk(ast.parse(path.read_text()))
    stored = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in stored if own is (isinstance(node.value, ast.Name) and node.value.id == "self")}


def test_no_module_but_one_writes_the_stage_and_every_attribute_of_a_flow_has_one_writer() -> None:
    attributes = set(Life.__slots__) | set(Flow.__slots__)
    modules = [path for path in ENGINE.glob("*.py") if path.name != "flow.py"]
    writers = {path.name: _written(path, own=False) & attributes for path in modules}
    assert {name: written for name, written in writers.items() if written} == WRITERS
    assert not any(_written(ENGINE / "flow.py", own=own) & set(Life.__slots__) for own in (True, False))


def test_the_moves_in_the_documentation_are_those_of_the_table() -> None:
    text = (ENGINE.parent.parent / "docs" / "architecture.md").read_text()
    begin, end = "<!-- moves: begin -->\n", "<!-- moves: end -->"
    assert text.partition(begin)[2].partition(end)[0] == f"```\n{stage.table()}\n```\n", (
        'docs/architecture.md: replace the block by the output of `python -c "from egress.engine import stage; '
        'print(stage.table())"`'
    )
