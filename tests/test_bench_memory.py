"""The memory of flows: an agent that is refused cannot make the engine keep much for each attempt."""

from __future__ import annotations

import pytest

from bench import memory
from egress.model import Action

pytestmark = pytest.mark.slow  # measures memory


@pytest.mark.parametrize("make", [memory.syn, memory.datagram])
def test_a_refused_flow_takes_no_more_than_a_kibibyte(make: memory.Maker) -> None:
    assert memory.bytes_a_flow(make, Action.REJECT, 2000) <= 1024


def test_a_settled_flow_keeps_none_of_its_bytes_but_the_line_that_lasts() -> None:
    assert memory.bytes_a_flow(memory.bulk, Action.ACCEPT, 400) <= 2816
