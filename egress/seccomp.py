"""System call filters for the processes of egress: each process is refused the dangerous calls that it does not need.

A filter lists the calls that are refused, not those that are allowed: Python and its libraries use other calls from
version to version, and a call that an allow-list lacks would end a process on some machine. `REFUSED` has every call
with which a compromised process could start programs, reach into other processes, leave its namespaces or change the
kernel. Each process is allowed those of them that it uses in the lab, and those with which its libraries connect. A
filter cannot read netlink messages: with the queue's socket and CAP_NET_ADMIN a compromised worker can still change
kernel rules.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# Numbers on x86-64, and those of asm-generic/unistd.h (aarch64, riscv64); 0: there is no such call.
REFUSED = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, 0), "vfork": (58, 0),
    "socketpair": (53, 199), "connect": (42, 203), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "setns": (308, 268), "unshare": (272, 97), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "fsopen": (430, 430), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "fsmount": (432, 432), "fsconfig": (431, 431), "fspick": (433, 433),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "personality": (135, 92),
}  # fmt: skip
OWN_PROCESS = {
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}  # allowed only with 0 or the caller's own pid: abort(3) needs that
_SOCKET = (41, 198)
_NETLINK, _NETFILTER = 16, 12  # AF_NETLINK, NETLINK_NETFILTER
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), 435, 0x00010000
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}  # linux/audit.h
_X32 = 0x40000000
_LOAD, _EQUAL, _ABOVE, _SET, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_NUMBER, _ARCH, _FIRST, _THIRD = 0, 4, 16, 32  # struct seccomp_data
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000  # SECCOMP_RET_…
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2

_libc = ctypes.CDLL(None, use_errno=True)

# The calls of REFUSED that each process needs. Without `socket` it can make sockets of NETLINK_NETFILTER only.
WORKER: frozenset[str] = frozenset()
ATTRIBUTION = frozenset({"socket", "setns"})  # asks the kernel about sockets, in the agents' namespaces
RECORDER = frozenset({"socket", "socketpair", "connect"})  # PostgreSQL, and the resolver's look-ups
# The API also listens, and reads large traces in a child process, which it may end.
API = RECORDER | {"listen", "accept", "accept4", "execve", "fork", "vfork", "kill", "pidfd_open", "pidfd_send_signal"}


def confine(needed: frozenset[str] = WORKER) -> bool:
    """Install the filter: from now on the calls in REFUSED that are not `needed` fail with EPERM; return True.

    The calls in OWN_PROCESS work only on this process. If `needed` does not have `socket`, only sockets of
    NETLINK_NETFILTER can be made. The filter applies to this thread, and to the threads and programs that it starts,
    and cannot be removed. They gain no privileges any more (no_new_privs).

    Returns False, and refuses nothing, if this machine's call numbers are not known or its kernel has no filters.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *(ctypes.c_ulong(0),) * 3)
    program = _assemble(*known, needed)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    arguments = (ctypes.c_ulong(_MODE_FILTER), ctypes.c_char_p(header), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return bool(_libc.prctl(_PR_SET_SECCOMP, *arguments) == 0)


def _assemble(architecture: int, column: int, needed: frozenset[str]) -> bytes:
    """Assemble the filter as classic BPF, in steps of (operation, steps to skip if true, if false, constant).

    `architecture`: the AUDIT_ARCH constant; `column`: the index of its call numbers. All calls of other architectures
    are refused. `clone` may start a thread, and a process only if `fork` is needed. `clone3` fails with ENOSYS, since
    its flags are in memory that a filter cannot read: libraries then use `clone`.
    """
    refuse, allow = (_ANSWER, 0, 0, _ERROR | errno.EPERM), (_ANSWER, 0, 0, _ALLOW)
    steps = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, architecture), refuse, (_LOAD, 0, 0, _NUMBER)]
    steps += [(_ABOVE, 0, 1, _X32), refuse]
    for name, numbers in REFUSED.items():
        if numbers[column] and name not in needed:
            steps += [(_EQUAL, 0, 1, numbers[column]), refuse]
    for numbers in OWN_PROCESS.values():
        steps += [(_EQUAL, 0, 5, numbers[column]), (_LOAD, 0, 0, _FIRST)]
        steps += [(_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, os.getpid()), allow, refuse]
    if "socket" not in needed:
        steps += [(_EQUAL, 0, 6, _SOCKET[column]), (_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 3, _NETLINK)]
        steps += [(_LOAD, 0, 0, _THIRD), (_EQUAL, 0, 1, _NETFILTER), allow, refuse]
    steps += [(_EQUAL, 0, 1, _CLONE3), (_ANSWER, 0, 0, _ERROR | errno.ENOSYS)]
    if "fork" not in needed:
        steps += [(_EQUAL, 0, 3, _CLONE[column]), (_LOAD, 0, 0, _FIRST), (_SET, 1, 0, _CLONE_THREAD), refuse]
    steps.append(allow)
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
