"""Send 64-byte UDP packets at full speed: `python -m bench.blast send HOST PORT SECONDS`, `… receive PORT SECONDS`."""

from __future__ import annotations

import socket
import sys
import time

PAYLOAD = bytes(64 - 28)  # 64 bytes with the IPv4 and UDP headers
BATCH = 64


def send(host: str, port: int, seconds: float) -> None:
    """Send packets to a port for some seconds, as fast as the interface takes them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(BATCH):
                try:
                    sock.send(PAYLOAD)
                except OSError:
                    time.sleep(0.0001)  # the interface's queue is full


def receive(port: int, seconds: float) -> float:
    """Receive on an IPv4 port; return the packets per second between the first packet and the last.

    Waits ten seconds for the first (or raises TimeoutError), and ends after a second without a packet, or when five
    seconds more than `seconds` have passed.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        sock.bind(("", port))
        sock.settimeout(10.0)
        sock.recv(100)
        first = last = time.monotonic()
        sock.settimeout(1.0)
        count = 0
        while last - first < seconds + 5:
            try:
                sock.recv(100)
            except TimeoutError:
                break
            count += 1
            last = time.monotonic()
    return count / max(last - first, 1e-9)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        print(receive(int(sys.argv[2]), float(sys.argv[3])))
