"""A small network for a test: namespaces, veths, processes in them, and nothing left behind.

    with Lab() as lab:
        agent, gateway = lab.ns("agent"), lab.ns("gateway")
        lab.veth(agent, "eth0", gateway, "egr0001", 1)   # 10.99.1.2/24 and fd99:1::2/64 – 10.99.1.1/24 and fd99:1::1/64
        lab.route(agent, via=1)                          # default routes, both families, through net 1's gateway
        lab.forwarding(gateway)
        done = lab.run(agent, ["ping", "-c1", "10.99.1.1"])

Names carry the process id of the test, so that several runs live side by side; the host's own namespace is never
touched. Needs root and `ip`; `needs_root` skips a module where either is missing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
TIMEOUT = 10.0  # seconds, for any condition that a test waits for

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables-restore") is None,
    reason="the lab needs root, iproute2 and iptables",
)
_serial = itertools.count()


class Lab:
    """Namespaces and processes that are removed at the end of a `with` block."""

    def __init__(self) -> None:
        self._prefix = f"lab{os.getpid()}n{next(_serial)}"
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as steps:  # each step is taken, even if others fail
            for namespace in self._namespaces:
                steps.callback(_ip, "netns", "delete", namespace, check=False)
                steps.callback(_kill_all, namespace)
            for process in self._processes:
                steps.callback(_end, process)

    def ns(self, name: str) -> str:
        """Make a namespace with lo up; returns its real, unique name."""
        namespace = f"{self._prefix}-{name}"
        _ip("netns", "add", namespace)
        self._namespaces.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        # No duplicate address detection: link-local addresses are of use at once, not after a second.
        self.run(namespace, ["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"], check=True)
        return namespace

    def adopt(self, namespace: str) -> str:
        """Let the lab delete a namespace that the code under test made."""
        self._namespaces.append(namespace)
        return namespace

    def veth(self, left: str, left_name: str, right: str, right_name: str, net: int) -> None:
        """Connect two namespaces by network `net`: the left side is .2 and ::2, the right side .1 and ::1."""
        _ip("-n", left, "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right)
        for namespace, interface, host in ((left, left_name, 2), (right, right_name, 1)):
            _ip("-n", namespace, "address", "add", f"10.99.{net}.{host}/24", "dev", interface)
            _ip("-n", namespace, "address", "add", f"fd99:{net}::{host}/64", "dev", interface, "nodad")
            _ip("-n", namespace, "link", "set", interface, "up")
        # IPv6 starts on a link once its carrier is noticed: up to a second later, unless it is queried (Linux 6.8).
        for namespace, interface in ((left, left_name), (right, right_name)):
            self.run(namespace, ["cat", f"/sys/class/net/{interface}/carrier"], check=True)

    def address(self, namespace: str, address: str, interface: str) -> None:
        """Add one more address of either family."""
        size, flags = (64, ["nodad"]) if ":" in address else (24, [])
        _ip("-n", namespace, "address", "add", f"{address}/{size}", "dev", interface, *flags)

    def route(self, namespace: str, via: int) -> None:
        """Set default routes of both families through the right side of network `via`."""
        _ip("-n", namespace, "route", "add", "default", "via", f"10.99.{via}.1")
        _ip("-n", namespace, "-6", "route", "add", "default", "via", f"fd99:{via}::1")

    def forwarding(self, namespace: str) -> None:
        """Make a namespace a router."""
        self.run(namespace, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"], check=True)

    def run(
        self, namespace: str, argv: Sequence[str], timeout: float = TIMEOUT, *, check: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; output is captured. With `check` a failure shows the command's output."""
        command = ["ip", "netns", "exec", namespace, *argv]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)[:200]} exited with {done.returncode}: {done.stderr or done.stdout}")
        return done

    def popen(self, namespace: str, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start in the background, with pipes for all three streams; ended with the lab at the latest."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._processes.append(process)
        return process

    def end_last(self) -> None:
        """Kill the background process that was started last."""
        _end(self._processes.pop())

    def python(self, namespace: str, code: str, *args: str, timeout: float = TIMEOUT) -> str:
        """Run Python source in a namespace, importing from this checkout; returns its output; fails with its errors."""
        return self.run(namespace, [PYTHON, "-c", code, *args], timeout, check=True).stdout


def eventually(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Wait until a condition holds. Raises AssertionError, which names `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.02)


def _ip(*argv: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(argv)}: {done.stderr}")
    return done.stdout


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _kill_all(namespace: str) -> None:
    for pid in _ip("netns", "pids", namespace, check=False).split():
        _kill(int(pid))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()
