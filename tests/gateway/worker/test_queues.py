"""The pairs of queues of a worker: bound and closed with its agents, in a namespace of their own."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.net import Lab, needs_root

PRELUDE = """
import json, selectors
from egress.config import Config
from egress.gateway.kernel.drops import drops
from egress.gateway.pipe.messages import Settings
from egress.gateway.worker.queue import DISCARD
from egress.gateway.worker.queues import Queues, allow_descriptors
selector = selectors.DefaultSelector()
def made():
    return Queues(Settings.of(Config(), "nobody"), selector, lambda *_: DISCARD, lambda error: DISCARD)
def state(queues): return [sorted(drops()), len(selector.get_map()), sorted(queues.failures)]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Lab, str]]:
    with Lab() as network:
        yield network, network.ns("queues")


def run(lab: tuple[Lab, str], code: str) -> Any:
    return json.loads(lab[0].python(lab[1], PRELUDE + code).splitlines()[-1])


@needs_root
def test_pairs_come_and_go_with_their_agents(lab: tuple[Lab, str]) -> None:
    states = run(
        lab,
        """
queues, states = made(), []
for numbers in ([7400, 7402], [7402, 7404], [7402], []):
    queues.keep(numbers); states.append(state(queues))
print(json.dumps(states))
""",
    )
    assert states == [
        [[7400, 7401, 7402, 7403], 4, []],
        [[7402, 7403, 7404, 7405], 4, []],
        [[7402, 7403], 2, []],
        [[], 0, []],
    ]


@needs_root
def test_a_pair_that_another_program_holds_is_named_and_bound_once_it_is_free(lab: tuple[Lab, str]) -> None:
    """Half a pair is not kept either: the settled queue of one pair is taken, the full-depth queue of another."""
    states, why = run(
        lab,
        """
other, queues, states = made(), made(), []
other.keep([7401, 7410])
queues.keep([7400, 7410, 7420]); states.append(state(queues))
why = sorted(queues.failures.values())
other.close()
queues.keep([7400, 7410, 7420]); states.append(state(queues))
print(json.dumps([states, why]))
""",
    )
    assert states[0] == [[7401, 7402, 7410, 7411, 7420, 7421], 6, [7400, 7410]]
    assert all("cannot bind netfilter queue" in each and "stop its other owner" in each for each in why)
    assert states[1] == [[7400, 7401, 7410, 7411, 7420, 7421], 6, []]


@needs_root
@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2048, reason="this machine allows too few files")
def test_hundreds_of_pairs_fit(lab: tuple[Lab, str]) -> None:
    """Each queue takes two descriptors; the usual limit is 1024."""
    assert run(
        lab,
        """
import resource
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most)); allow_descriptors()
queues = made()
queues.keep(range(8000, 8600, 2))
print(json.dumps(state(queues)))
""",
    ) == [list(range(8000, 8600)), 600, []]
