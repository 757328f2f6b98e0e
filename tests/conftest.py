"""Settings of the whole suite."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import settings

from tests.turns import LOCK, needs_turn, take_turn

# Two busy cores make any deadline flaky. CI repeats the same examples; elsewhere new ones are tried each time.
settings.register_profile("egress", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("fast", settings.get_profile("egress"), max_examples=10)  # make test FAST=1
settings.load_profile("egress")


# `sudo make test` is as root as a login of root: `egress run` would give its command to the user who called sudo.
for name in ("SUDO_UID", "SUDO_GID"):
    os.environ.pop(name, None)

CONFINED = "Seccomp:\t2" in Path("/proc/self/status").read_text()  # in a container: from the start
TURN = pytest.StashKey[TextIO]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if needs_turn(session.config):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        session.config.stash[TURN] = take_turn(LOCK, reporter.write_line if reporter else lambda _: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse test ids that contain an object's address: workers would collect different ids, and no test would run."""
    if changing := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"name the parameters of {changing[0]}: its id is another one in each process")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all modules and tests again and again: none of them becomes garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure(config: pytest.Config) -> None:
    if TURN in config.stash:
        config.stash[TURN].close()


@pytest.fixture(scope="session", autouse=True)
def children_take_signals() -> Iterator[None]:
    """Give the processes that tests start the default signal actions, also if the suite runs as a background job.

    A background job of a script ignores SIGINT, one of nohup SIGHUP, and children inherit that. So they are ignored by
    a handler that does nothing instead: handlers are reset when a child executes its program.
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


@pytest.fixture(scope="session", autouse=True)
def not_confined() -> Iterator[None]:
    """Fail where a test has confined the process of the tests: most tests after it would fail, too."""
    yield
    assert "Seccomp:\t2" not in Path("/proc/self/status").read_text() or CONFINED, "run it in a process of its own"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database without rows, for tests to copy: a copy takes no time, the migrations a quarter of a second."""
    from egress.store.database.database import open_database

    path = tmp_path_factory.mktemp("database") / "egress.db"
    open_database(f"sqlite:///{path}").dispose()
    return path
