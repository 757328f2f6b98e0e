"""Ports for servers that tests start, taken by no other test of this machine."""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """Reserve a TCP port of 127.0.0.1 for a server that sets SO_REUSEADDR, as all of ours do.

    It stays reserved until this process ends: Linux lets such a server bind beside a socket that does not listen, and
    gives the port to no program that asks for any free one.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    return int(holder.getsockname()[1])
