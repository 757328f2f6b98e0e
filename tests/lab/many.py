"""Many flows of one datagram each, and records of their outcomes: `python -m tests.lab.many ROLE OUT …`.

    sink OUT                    outside: appends number, source, its port and ours of each datagram that arrives
    send OUT RATE SOURCES       in an agent's namespace: RATE flows a second, in bursts, from SOURCES (a,b,…)
                                until SIGTERM; appends the number of each that was refused (an ICMP error came back)

Flow `number` is determined by its number alone (`flow`), is never tried twice, and differs from all others, so the
outcome of each is known from outside: it arrived, it was refused, or there was no answer.
"""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

SERVERS = ("10.99.2.2", "fd99:2::2")
ALLOWED, DENIED, PORTS = 7000, 9000, 20  # destination ports: PORTS from each of these on
SPORT, SPORTS = 10_000, 50_000
BURST = 25  # flows that begin at once, to keep the worker busy
LINGER = 2.0  # seconds to wait for a refusal


class Flow(NamedTuple):
    """The one datagram `number`."""

    source: str
    sport: int
    server: str
    dport: int

    @property
    def allowed(self) -> bool:
        return self.dport < DENIED


def flow(number: int, sources: list[str]) -> Flow:
    source = sources[number % len(sources)]
    base = DENIED if number % 5 < 2 else ALLOWED
    return Flow(source, SPORT + number % SPORTS, SERVERS[":" in source], base + number // SPORTS)


def sink(out: str) -> None:
    poller = select.epoll()
    sockets = {}
    for server in SERVERS:
        for port in range(ALLOWED, ALLOWED + PORTS):
            sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            sock.bind((server, port))
            sock.setblocking(False)
            sockets[sock.fileno()] = sock
            poller.register(sock, select.EPOLLIN)
    with Path(out).open("a", buffering=1) as log:
        log.write("ready\n")
        while True:
            for descriptor, _ in poller.poll():
                sock = sockets[descriptor]
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, (host, sport, *_) = sock.recvfrom(2048)
                        log.write(f"{data.decode()} {host} {sport} {sock.getsockname()[1]}\n")


def send(out: str, rate: float, sources: list[str]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    began, number = time.monotonic(), 0
    due = began
    open_: dict[int, tuple[int, socket.socket]] = {}
    old: deque[tuple[float, int]] = deque()
    poller = select.epoll()
    with Path(out).open("a", buffering=1) as log:
        while open_ or not stop:
            now = time.monotonic()
            if not stop and now >= due:
                sock = _open(number, sources)
                open_[sock.fileno()] = number, sock
                old.append((now + LINGER, sock.fileno()))
                poller.register(sock, select.EPOLLERR)
                number += 1
                due = began + number // BURST * BURST / rate
            while old and now >= old[0][0]:
                _, sock = open_.pop(old.popleft()[1])
                sock.close()
            for descriptor, _ in poller.poll(0.01 if stop else min(max(due - now, 0.0), 0.1)):
                refused, sock = open_[descriptor]
                with contextlib.suppress(BlockingIOError):
                    try:
                        sock.recv(1)
                    except OSError as error:
                        if isinstance(error, BlockingIOError):
                            raise
                        log.write(f"{refused}\n")
                poller.unregister(sock)
        log.write(f"sent {number}\n")


def _open(number: int, sources: list[str]) -> socket.socket:
    one = flow(number, sources)
    sock = socket.socket(socket.AF_INET6 if ":" in one.source else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((one.source, one.sport))
    sock.connect((one.server, one.dport))
    sock.send(str(number).encode())
    return sock


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink(sys.argv[2])
    else:
        send(sys.argv[2], float(sys.argv[3]), sys.argv[4].split(","))
