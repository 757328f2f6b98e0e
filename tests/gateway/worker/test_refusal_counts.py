"""The counts behind the summary line of `egress run`."""

from __future__ import annotations

import dataclasses

from egress.cli.run import sentence
from egress.gateway.worker.refusal_counts import MAX_NAMED, MAX_REMEMBERED, RefusalCounts
from egress.model import Action, Mode, Reason
from egress.records.shape import AnomalyRecord, FlowRecord

FLOW = FlowRecord(
    "0" * 16, "a", 1.0, 1.0, None, "new", "out", "tcp", "10.0.0.2", 4000, "192.0.2.1", 443, "1:x", "", "",
    Action.REJECT, Reason.DEFAULT, "", 1, Mode.ENFORCE, 1, 0, 60, 0, 0,
)  # fmt: skip


def test_a_flow_counts_once_however_often_it_is_recorded() -> None:
    tally = RefusalCounts()
    for _ in range(3):
        tally.add(FLOW)
    tally.add(dataclasses.replace(FLOW, flow_id="1" * 16, action=Action.ACCEPT))
    tally.add(dataclasses.replace(FLOW, flow_id="2" * 16, action=Action.HOLD))
    assert tally.as_json()["refused"] == 1
    assert sentence(tally.as_json()) == "1 flow refused to 192.0.2.1:443/tcp"


def test_monitored_flows_are_called_so() -> None:
    tally = RefusalCounts()
    tally.add(dataclasses.replace(FLOW, mode=Mode.MONITOR, dst="2001:db8::1"))
    tally.add(AnomalyRecord("a", 1.0, Reason.SPOOFED, "x", 4))
    assert sentence(tally.as_json()) == (
        "0 flows refused; 1 would have been refused (monitor) to [2001:db8::1]:443/tcp; 4 stray packets refused"
    )
    assert sentence(RefusalCounts().as_json()) == "nothing refused"


def test_memory_is_bounded_and_the_count_goes_on() -> None:
    tally = RefusalCounts()
    for number in range(MAX_REMEMBERED + 100):
        tally.add(dataclasses.replace(FLOW, flow_id=f"{number:016x}", dport=number % 60000))
    assert tally.refused == MAX_REMEMBERED + 100
    assert len(tally.destinations) == MAX_NAMED
