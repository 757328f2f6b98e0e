"""The queues of one worker: a pair for each of its agents, bound when the agent is added, closed when it is removed.

The pair is the full-depth queue, and the next number, the queue for settled connections. An agent that sends too much
fills its own pair. The kernel drops the packets of an agent whose pair cannot be bound.
"""

from __future__ import annotations

import resource
import selectors
from collections.abc import Callable, Iterable

from egress.errors import EgressError
from egress.gateway.kernel import nfnetlink
from egress.gateway.pipe.messages import Settings
from egress.gateway.worker.queue import Judge, PacketQueue

DRAIN = 0.01  # seconds; longer than any debt of a queue

Pair = tuple[PacketQueue, PacketQueue]  # full depth, settled


class Queues:
    """Binds and closes pairs of queues. Each queue is registered in the selector, with its `run` as data.

    `failures`: the error of each pair that could not be bound, by the number of its full-depth queue.
    """

    def __init__(
        self, config: Settings, selector: selectors.BaseSelector, judge: Judge, failed: Callable[[Exception], int]
    ) -> None:
        self.failures: dict[int, str] = {}
        self._config, self._selector = config, selector
        self._judge, self._failed = judge, failed
        self._pairs: dict[int, Pair] = {}
        self._before = (0, 0, 0)  # `totals` of the closed queues

    def keep(self, numbers: Iterable[int]) -> None:
        """Bind the pairs with these full-depth numbers that are not bound yet, and close all others.

        A pair that cannot be bound is in `failures`; call again to retry.
        """
        wanted = dict.fromkeys(numbers)
        for number in self._pairs.keys() - wanted.keys():
            self._close(number)
        self.failures = {}
        for number in wanted.keys() - self._pairs.keys():
            try:
                self._pairs[number] = self._bind(number)
            except (EgressError, OSError) as error:
                self.failures[number] = str(error)

    def totals(self) -> tuple[int, int, int]:
        """Return counts since the start: packets of full-depth queues, of settled queues, and errors of judging."""
        full, settled, errors = self._before
        for deep, flat in self._pairs.values():
            full, settled, errors = full + deep.packets, settled + flat.packets, errors + deep.errors + flat.errors
        return full, settled, errors

    def drain(self) -> None:
        """Judge the packets that wait now, at most the length of each queue."""
        for pair in self._pairs.values():
            for queue in pair:
                left = self._config.queue.length
                while left > 0 and (done := queue.run(DRAIN)):
                    left -= done

    def close(self) -> None:
        """Close all queues. The kernel drops the packets in them."""
        self.keep(())

    def _bind(self, number: int) -> Pair:
        full, settled = (
            PacketQueue(each, self._judge, self._failed, mark_mask=self._config.mark_mask)
            for each in (number, number + 1)
        )
        length, fail_open = self._config.queue.length, self._config.fail_open
        full.bind(length=length, copy_range=nfnetlink.MAX_COPY, settled=False, fail_open=fail_open)
        try:
            settled.bind(length=length, copy_range=self._config.queue.settled_copy, settled=True, fail_open=fail_open)
        except (EgressError, OSError):
            full.close()
            raise
        for queue in (full, settled):
            self._selector.register(queue, selectors.EVENT_READ, queue.run)
        return full, settled

    def _close(self, number: int) -> None:
        full, settled, errors = self._before
        pair = deep, flat = self._pairs.pop(number)
        self._before = full + deep.packets, settled + flat.packets, errors + deep.errors + flat.errors
        for queue in pair:
            self._selector.unregister(queue)
            queue.close()


def allow_descriptors() -> None:
    """Raise the limit of open files as far as this process may: each queue takes two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
