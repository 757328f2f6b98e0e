"""A lasting error is logged at once, and again after a while; a different error is logged at once."""

from __future__ import annotations

import time

import pytest

from egress.gateway.supervisor.complaint import REPEAT_SECONDS, Complaint


def test_a_trouble_is_due_at_once_and_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    complaint = Complaint()
    assert complaint.due("disk") and not complaint.due("disk")
    clock += REPEAT_SECONDS - 1
    assert not complaint.due("disk")
    clock += 2
    assert complaint.due("disk") and not complaint.due("disk")


def test_another_trouble_and_one_that_was_over_are_due_at_once() -> None:
    complaint = Complaint()
    assert complaint.due("disk") and complaint.due("database") and complaint.due("disk")
    complaint.over()
    assert complaint.due("disk") and not complaint.due("disk")
