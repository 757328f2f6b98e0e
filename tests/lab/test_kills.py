"""kill -9 of worker, recorder and database under load: what was decided is stored, once. `python -m bench.kills` is the
same for as many rounds as one likes.
"""

from __future__ import annotations

import pytest

from bench.kills import running
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

ROUNDS = 3


def test_what_was_decided_is_stored_once_whoever_is_killed() -> None:
    with running("postgresql", seed=1) as run:
        run.load(100.0)
        for _ in range(ROUNDS):
            run.round()
        report = run.end()
    assert report.good, report
    assert set(report.kills) == {"worker", "recorder", "database"}
    assert report.arrived > 100 and report.refused > 50, report
