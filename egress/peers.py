"""The process at the other end of a unix socket, as the kernel identifies it (SO_PEERCRED, unix(7)).

A process in another network namespace counts as an agent, even as root: it may share our files and our user ids.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple, Protocol

_CREDENTIALS = struct.Struct("=iII")  # struct ucred


class Peer(NamedTuple):
    """The process that connected to a unix socket, or listened on it."""

    pid: int
    uid: int
    local: bool  # it is in our network namespace, so it is no agent (`is_of_this_host`)


class _Socket(Protocol):
    """The method of a socket that is used here; asyncio's socket objects have it, too."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def peer_of(sock: _Socket) -> Peer:
    """Identify the process at the other end. Raises OSError for a socket that is not connected."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid, is_of_this_host(pid))


def is_of_this_host(pid: int) -> bool:
    """Return True if the process is in our network namespace; False if it has ended or is not visible to us.

    Without root we may not inspect processes of other users. It returns True for them, so the caller must check the
    user id.
    """
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    except PermissionError:
        return os.geteuid() != 0  # root without CAP_SYS_PTRACE: refuse rather than believe
    except OSError:  # it has ended, or is in a pid namespace that we cannot see
        return False
