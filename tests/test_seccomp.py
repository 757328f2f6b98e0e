"""The system call filters, each in a process of its own: what they refuse, and what goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from egress.seccomp import API, ATTRIBUTION, OWN_PROCESS, RECORDER, REFUSED, WORKER

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
CODE = """
import ctypes, errno, os, platform, socket, subprocess, sys, tempfile, threading
from egress import seccomp
from egress.gateway.kernel import linux
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


PROFILES = {
    "ATTRIBUTION": """
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # NETLINK_SOCK_DIAG
    diag.send(bytes(20))
attempt = os.open("/proc/self/ns/net", os.O_RDONLY)
assert libc.setns(attempt, 0x40000000) == 0 or ctypes.get_errno() == errno.EPERM  # not root: by the kernel
assert refused(os.fork) and refused(lambda: os.execv("/bin/true", ["true"])) and refused(lambda: dial())
""",
    "RECORDER": """
dial()
assert refused(os.fork) and refused(lambda: os.execv("/bin/true", ["true"]))
assert call("setns", -1, 0)
with socket.socket() as listener:
    assert refused(lambda: listener.listen())
""",
    "API": """
dial()
script = "import os, signal; os.kill(os.getpid(), 0); print(open('/proc/self/status').read())"
done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
assert "Seccomp:\\t2" in done.stdout, done
late = subprocess.Popen(["sleep", "60"])
late.kill()
assert late.wait() == -9
assert call("setns", -1, 0) and call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0)
""",
}
BEGIN = """
import ctypes, errno, os, platform, socket, subprocess, sys
from egress import seccomp
listening = socket.create_server(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)
column = 0 if platform.machine() == "x86_64" else 1

def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True

def call(name, *arguments):
    return libc.syscall(seccomp.REFUSED[name][column], *arguments) == -1 and ctypes.get_errno() == errno.EPERM

def dial():
    socket.create_connection(listening.getsockname()).close()

assert seccomp.confine(seccomp.PROFILE)
"""
NEVER = "for name in ('ptrace', 'unshare', 'mount', 'chroot', 'bpf', 'io_uring_setup', 'init_module', 'keyctl'):"
END = f"{NEVER}\n    assert call(name, -1, -1, -1, -1, -1), name\nprint('confined')"


@pytest.mark.parametrize("profile", PROFILES)
def test_what_each_process_may_do(profile: str) -> None:
    code = BEGIN.replace("PROFILE", profile) + PROFILES[profile] + END
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("confined\n"), done.stderr


def test_the_profiles_name_calls_that_are_refused_otherwise() -> None:
    assert not WORKER
    assert REFUSED.keys() | {"socket"} >= ATTRIBUTION | RECORDER | API
    for never in ("ptrace", "unshare", "mount", "bpf", "init_module", "process_vm_writev", "pidfd_getfd"):
        assert never in REFUSED and never not in ATTRIBUTION | RECORDER | API


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
