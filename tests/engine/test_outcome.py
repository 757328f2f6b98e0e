"""The outbox keeps records in order and hands out each one once."""

from __future__ import annotations

from egress.engine.outcome import Outbox
from egress.model import Reason
from egress.records.shape import AnomalyRecord


def test_records_leave_in_order_and_once() -> None:
    outbox = Outbox()
    one, two, three = (AnomalyRecord("a", float(number), Reason.SPOOFED, "x", 1) for number in range(3))
    outbox.put(one)
    outbox.put(two, three)
    assert outbox.take() == (one, two, three) and outbox.take() == ()
