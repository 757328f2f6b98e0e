"""The relay between a caller and its child: exit codes, signals, orphans."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.lab.net import ROOT

# argv: SHELL COMMAND; exits with relay's result, cut to 8 bits
RELAYED = """
import os, signal, sys
from egress.gateway.sandbox.relay import PASSED, relay
before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
sys.exit(relay(child, reap=len(sys.argv) > 2))
"""


def relayed(script: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RELAYED, script, *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("script, code", [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_the_exit_code_is_the_childs(script: str, code: int) -> None:
    with relayed(script) as process:
        assert process.wait(20) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_of_another_process_is_passed_on(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with relayed(f"trap 'exit 5' {name}; echo ready; while :; do sleep 0.02; done") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 5


def test_the_exit_code_is_of_the_child_and_not_of_an_orphan() -> None:
    with relayed("sh -c 'exit 3' & sleep 0.2; exit 4", "reap") as process:
        assert process.wait(20) == 4
