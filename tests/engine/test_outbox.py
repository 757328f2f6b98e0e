"""The outbox keeps records in order and hands out each one once."""

from __future__ import annotations

from egress.engine.outbox import Outbox
from egress.limits import Limits
from egress.model import Action, Reason
from egress.records.shape import AnomalyRecord


def test_records_leave_in_order_and_once() -> None:
    outbox = Outbox(Limits())
    records = tuple(AnomalyRecord("a", float(number), Reason.SPOOFED, "x", 1) for number in range(3))
    for record in records:
        outbox.anomaly(record, Action.DROP, record.time)
    assert outbox.take() == records and outbox.take() == ()
