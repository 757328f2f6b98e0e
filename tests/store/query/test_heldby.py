"""The circumstances of a hold: the process of its flow, and the tool calls under way when it was made."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import Engine

from egress.model import Hold
from egress.store.database.database import writing
from egress.store.query.heldby import MAX_CALLS, Call, Circumstances, circumstances
from egress.store.recording.writer import store
from tests.store import samples
from tests.store.recording.test_steps import report, step

NOW = samples.START
HOLD = Hold("ab", samples.FLOW.flow_id, "train-1", NOW, NOW + 120, "tcp", "192.0.2.7", 443, (), False, "192.0.2.7")


def about(engine: Engine, *holds: Hold) -> list[Circumstances]:
    with engine.connect() as connection:
        return circumstances(connection, holds)


def test_each_hold_has_its_process_and_the_calls_of_its_moment(engine: Engine) -> None:
    other = replace(HOLD, id="cd", flow_id="f" * 16, time=NOW + 50)
    assert about(engine, HOLD, other) == [Circumstances(None, ())] * 2
    with writing(engine) as connection:
        store(connection, [samples.PROCESS])
    report(engine, step("s1", NOW - 5, NOW + 1, NOW + 2, summary="pip install x"), step("s2", NOW + 40, now=NOW + 60))
    first, second = about(engine, HOLD, other)
    assert first == Circumstances(samples.PROCESS, (Call("e", "bash", "pip install x"),))
    assert (second.process, [call.tool for call in second.calls]) == (None, ["bash"])
    assert about(engine, replace(HOLD, agent="other"))[0].calls == ()


def test_of_many_calls_the_latest_are_shown(engine: Engine) -> None:
    report(engine, *(step(f"s{number}", NOW - number, now=NOW, summary=str(number)) for number in range(MAX_CALLS + 3)))
    (found,) = about(engine, HOLD)
    assert [call.summary for call in found.calls] == [str(number) for number in range(MAX_CALLS)]
