"""Notify systemd (sd_notify(3)) that the gateway guards, is alive, or stops; no effect without NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import os
import socket

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


def notify(state: str) -> None:
    """Send READY, ALIVE or STOPPING. Errors are ignored: without a sign of life systemd ends the process in time."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(0.2)
        sock.connect(f"\0{path[1:]}" if path[0] == "@" else path)
        sock.send(state.encode())
