"""Whole runs of the suite take turns: which ones, and how one waits for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.net import ROOT, needs_root
from tests.turns import needs_turn, take_turn

ASK = """
import json, sys, pytest
from tests.turns import needs_turn
class Ask:
    def pytest_cmdline_main(self, config):
        print(json.dumps(needs_turn(config)))
        return 0
for words in json.loads(sys.argv[1]):
    pytest.main(words, [Ask()])
"""
HOLD = "import sys; from pathlib import Path; from tests.turns import take_turn\n"
HOLD += "held = take_turn(Path(sys.argv[1]), print); print('mine', flush=True); sys.stdin.read()"


@pytest.mark.slow
@needs_root
def test_a_whole_run_in_parallel_needs_its_turn() -> None:
    lab = ["-n2", "-n2 tests", "-n2 tests/lab", "-n2 -m lab"]
    others = ["", "-n0", "-n2 tests/cli", "-n2 tests/lab/test_sandbox.py"]
    words = [*map(str.split, [*lab, *others]), ["-n2", "-m", "not lab"]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(words)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list(map(json.loads, done.stdout.splitlines())) == [True] * len(lab) + [False] * (len(others) + 1)


def test_a_worker_needs_no_turn(pytestconfig: pytest.Config) -> None:
    """Workers run within the turn of the process that started it, and this process has no workers."""
    assert not needs_turn(pytestconfig)


def test_the_second_says_for_whom_it_waits_and_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    lock, said = tmp_path / "lock", list[str]()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "mine\n"

        def say(line: str) -> None:
            said.append(line)
            first.kill()

        take_turn(lock, say).close()
    assert said == [f"waiting for another run of the tests: process {first.pid} in {ROOT} (lock {lock})"]
    assert lock.read_text().startswith(f"process {os.getpid()} in ")
