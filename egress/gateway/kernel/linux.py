"""System calls that Python 3.11 lacks, through libc: namespaces, mounts, capabilities, seccomp. Errors are OSError."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000  # linux/sched.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18, 1 << 20,
)  # fmt: skip  # linux/mount.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = (
    1, 4, 8, 24, 38, 47,
)  # fmt: skip  # linux/prctl.h
PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_MNT_DETACH = 2  # linux/fs.h
_NS_GET_USERNS = 0xB701  # linux/nsfs.h
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h
# Audit architecture (linux/audit.h), numbers of ioctl(2) and socket(2): x86-64, its x32, i386, aarch64, arm, riscv64.
_CALLS = (
    (0xC000003E, 16, 41), (0xC000003E, 0x40000202, 0x40000029), (0x40000003, 54, 359),
    (0xC00000B7, 29, 198), (0x40000028, 54, 281), (0xC00000F3, 29, 198),
)  # fmt: skip
_I386, _SOCKETCALL = 0x40000003, 102  # its arguments are in memory, which no filter sees
_X32, _IO_URING_SETUP = 0x40000000, 425  # opens sockets that no filter sees either; one number everywhere
_FAMILIES = (1, 2, 10, 16, 17, 38)  # AF_UNIX, INET, INET6, NETLINK, PACKET, ALG: linux/socket.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of an open /proc/PID/ns or nsfs file; `kind` is its CLONE_NEW… constant."""
    _check(_libc.setns(fd, kind), "setns")


def unshare(kinds: int) -> None:
    """Enter new namespaces, by CLONE_NEW… constants or-ed together. A new pid namespace applies to children only."""
    _check(_libc.unshare(kinds), "unshare")


def mount(source: str, target: str, filesystem: str, flags: int, data: str = "") -> None:
    """Call mount(2)."""
    _check(_libc.mount(*(os.fsencode(text) for text in (source, target, filesystem)), flags, os.fsencode(data)), target)


def unmount(target: str) -> None:
    """Unmount what is mounted last at `target`, also while it is in use."""
    _check(_libc.umount2(os.fsencode(target), _MNT_DETACH), target)


def prctl(option: int, value: int) -> None:
    """Call prctl(2) with one argument."""
    _check(_libc.prctl(option, *(ctypes.c_ulong(number) for number in (value, 0, 0, 0))), f"prctl {option}")


def owner(namespace: int) -> int:
    """Open the user namespace that owns a namespace. Returns a descriptor, which the caller closes."""
    return fcntl.ioctl(namespace, _NS_GET_USERNS)


def limit_bounding(kept: frozenset[int]) -> None:
    """Limit the capabilities that programs which this thread executes can gain to `kept`; clear the ambient set.

    Needs CAP_SETPCAP.
    """
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    for capability in set(range(last + 1)) - kept:
        prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def limit_capabilities(kept: frozenset[int]) -> None:
    """Give this thread exactly the capabilities `kept`, permitted and effective; make none inheritable."""
    mask = sum(1 << capability for capability in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)), "capset")


def limit_calls() -> None:
    """Refuse system calls that reach out of a network namespace, by a seccomp filter. Programs executed later keep it.

    Needs no_new_privs.

    EPERM: the ioctls that type into a terminal. EAFNOSUPPORT: sockets of families beyond `_FAMILIES`; AF_VSOCK
    reaches a virtual machine's host from any namespace. ENOSYS: ways round that (io_uring, i386's socketcall).
    """
    program = _filter()
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    arguments = (ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(header), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(_libc.prctl(_PR_SET_SECCOMP, *arguments), "seccomp")


_Steps = list[tuple[int, int, int, int]]  # operation, steps to skip if equal, if not, constant
_LOAD, _EQUAL, _ANSWER = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24  # struct seccomp_data: nr, arch, low halves of two arguments


def _filter() -> bytes:
    """Assemble the filter: classic BPF over struct seccomp_data, seccomp(2)."""
    steps: _Steps = []
    for arch, ioctl, socket in _CALLS:
        ring = _IO_URING_SETUP | socket & _X32
        typing = [(_EQUAL, 1, 0, _TIOCSTI), (_EQUAL, 0, 1, _TIOCLINUX), _refuse(errno.EPERM)]
        allowed = [(_EQUAL, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
        body = _call(ioctl, [(_LOAD, 0, 0, _SECOND), *typing])
        body += _call(socket, [(_LOAD, 0, 0, _FIRST), *allowed, _refuse(errno.EAFNOSUPPORT)])
        body += _call(ring, [_refuse(errno.ENOSYS)])
        if arch == _I386:
            body += _call(_SOCKETCALL, [_refuse(errno.ENOSYS)])
        steps += [(_LOAD, 0, 0, _ARCH), (_EQUAL, 0, len(body), arch), *body]
    steps.append((_ANSWER, 0, 0, 0x7FFF0000))  # SECCOMP_RET_ALLOW
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _call(number: int, steps: _Steps) -> _Steps:
    """Put a test before `steps`, so that they run for the system call `number` only."""
    return [(_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, len(steps), number), *steps]


def _refuse(error: int) -> tuple[int, int, int, int]:
    return (_ANSWER, 0, 0, 0x00050000 | error)  # SECCOMP_RET_ERRNO


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
