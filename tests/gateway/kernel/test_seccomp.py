"""The workers' system call filter, in a process of its own: what it refuses, and what goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from egress.gateway.kernel.seccomp import OWN_PROCESS, REFUSED

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
CODE = """
import ctypes, errno, os, platform, socket, subprocess, sys, tempfile, threading
from egress.gateway.kernel import linux, seccomp
ours, theirs = socket.socketpair()
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
assert seccomp.confine()
libc = ctypes.CDLL(None, use_errno=True)

def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True

assert refused(lambda: os.execv("/bin/true", ["true"]))
assert refused(os.fork)
assert refused(lambda: subprocess.run(["true"]))
assert refused(lambda: socket.socket(socket.AF_INET))
assert refused(lambda: socket.socket(socket.AF_UNIX))
assert refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)), "routes"
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).close()  # nfnetlink: the queues of an agent that comes later
assert refused(lambda: os.kill(os.getppid(), 0))
for name, number in seccomp.OWN_PROCESS.items():
    call = number[0] if platform.machine() == "x86_64" else number[1]
    assert libc.syscall(call, os.getppid(), os.getppid(), 0, 0) == -1 and ctypes.get_errno() == errno.EPERM
    second = threading.get_native_id() if name == "tgkill" else 0
    assert libc.syscall(call, os.getpid(), second, 0, 0) == 0, "its own process it may ask"
tkill = 200 if platform.machine() == "x86_64" else 130
assert libc.syscall(tkill, os.getppid(), 0) == -1 and ctypes.get_errno() == errno.EPERM
assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == errno.EPERM
assert libc.ptrace(16, os.getppid(), 0, 0) == -1 and ctypes.get_errno() == errno.EPERM

def work():
    assert refused(lambda: socket.socket(socket.AF_INET)), "a thread is confined, too"
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        os.fsync(file.fileno())
    done.append(True)

done = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
ours.send(b"note")
assert theirs.recv(9) == b"note" and done
print("confined")
"""


def test_what_a_confined_process_can_still_do() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout == "confined\n", done.stderr


@pytest.mark.skipif(not all(path.exists() for path in HEADERS), reason="the kernel's headers for x86-64 are not there")
def test_the_numbers_are_the_kernels() -> None:
    for column, header in enumerate(HEADERS):
        text = header.read_text()
        there = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", text)}
        ours = {name: numbers[column] for name, numbers in (REFUSED | OWN_PROCESS).items() if numbers[column]}
        assert {name: there.get(name) for name in ours} == {
            name: number if name in there else None for name, number in ours.items()
        }
        assert len(ours.keys() & there.keys()) > 30
