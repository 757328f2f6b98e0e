"""The suite as a background job of a script: signals ignored, no terminal, no standard input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.lab.net import ROOT, needs_root

pytestmark = pytest.mark.slow  # runs parts of the suite in background jobs

LAB = [pytest.mark.lab, needs_root]
IGNORING = ["env", "--ignore-signal=INT,QUIT,HUP"]


@pytest.mark.parametrize(
    "test, passed",
    [
        ("tests/cli/test_observe.py", 4),
        pytest.param("tests/lab/test_sandbox.py::test_signals_reach_the_command", 5, marks=LAB),
        pytest.param("tests/lab/test_sandbox.py::test_the_terminal_works_and_control_c_arrives_once", 1, marks=LAB),
    ],
)
def test_tests_that_send_signals_pass(test: str, passed: int) -> None:
    done = subprocess.run(
        [*IGNORING, sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", test],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        start_new_session=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{passed} passed" in done.stdout
