"""Settings of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Two busy cores make any deadline flaky. CI repeats the same examples; elsewhere new ones are tried each time.
settings.register_profile("egress", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("fast", settings.get_profile("egress"), max_examples=20)  # make test FAST=1
settings.load_profile("egress")


@pytest.fixture(scope="session", autouse=True)
def children_take_signals() -> Iterator[None]:
    """Give the processes that tests start the default signals, where the suite runs as a background job.

    A script's background job ignores Ctrl-C, one of nohup the end of its terminal, and children inherit that. A handler
    that does nothing ignores them as well, and ends where a child executes its program.
    """
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
