"""Send as much of one kind of traffic as one process can: `python -m tests.lab.flood KIND HOST SECONDS`.

The kinds are the keys of KINDS. Each needs root, sends to HOST only, and ends by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

from tests.engine.resolver import question
from tests.traffic import echo, tcp

CONTENT = 8080  # a TCP service
OPEN, CLOSED = (7000, 7099), (20000, 60000)  # UDP ports that rules allow, and that no rule allows
SOURCE = {socket.AF_INET: "10.99.1.2", socket.AF_INET6: "fd99:1::2"}


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _datagrams(host: str, ports: tuple[int, int]) -> Iterator[None]:
    """Send a datagram of a new flow each time: sockets change, so source ports do."""
    for number in itertools.count():
        with socket.socket(_family(host), socket.SOCK_DGRAM) as sender:
            for port in range(ports[0], min(ports[0] + 64, ports[1])):
                with contextlib.suppress(OSError):  # an ICMP answer to an earlier one
                    sender.sendto(b"spray%d" % number, (host, port))
                yield


def _questions(host: str) -> Iterator[None]:
    for number in itertools.count():
        with socket.socket(_family(host), socket.SOCK_DGRAM) as sender:
            with contextlib.suppress(OSError):
                sender.sendto(question(f"n{number}.example.test", 1, number & 0xFFFF), (host, 53))
            yield


def _raw(host: str, packet: Callable[[int], bytes]) -> Iterator[None]:
    """Send whole IPv4 packets; the kernel adds nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for number in itertools.count():
            with contextlib.suppress(OSError):
                sender.sendto(packet(number), (host, 0))
            yield


def _stream(host: str, data: bytes, *, small: bool = False) -> Iterator[None]:
    """Send the same bytes on one connection, and read what comes back; where it is refused, on another."""
    while True:
        try:
            with socket.create_connection((host, CONTENT), 2) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, small)
                connection.setblocking(False)
                at = 0
                while True:
                    readable, writable, _ = select.select([connection], [connection], [], 1.0)
                    if readable and not connection.recv(1 << 20):
                        break
                    if writable:
                        at = (at + connection.send(data[at : at + (1 if small else 1 << 16)])) % len(data)
                    yield
        except OSError:
            yield


def _syn(number: int) -> bytes:
    return tcp(SOURCE[socket.AF_INET], "10.99.2.2", 1024 + number % 60000, 1 + number // 60000, 2, number, 0)


def _ping(number: int) -> bytes:
    return echo(SOURCE[socket.AF_INET], "10.99.2.2", number & 0xFFFF, b"x" * 16)


def _burn(_: str) -> Iterator[None]:
    while True:
        sum(range(2000))
        yield


_REQUEST = b"POST / HTTP/1.1\r\nHost: www.example.test\r\nContent-Length: 2\r\n\r\n{}"
KINDS: dict[str, Callable[[str], Iterator[None]]] = {
    "control": _burn,  # burns a CPU, sends nothing
    "udp": lambda host: _datagrams(host, OPEN),
    "udp, refused": lambda host: _datagrams(host, CLOSED),
    "icmp": lambda host: _raw(host, _ping),
    "syn": lambda host: _raw(host, _syn),
    "dns": _questions,
    "http": lambda host: _stream(host, _REQUEST * 300),
    "json": lambda host: _stream(host, b'{"a":{"b":[{}]}}\n{\n' * 1000),
    "bytes": lambda host: _stream(host, b"x", small=True),
    "bulk": lambda host: _stream(host, random.Random(1).randbytes(1 << 20)),
}


def main() -> None:
    kind, host, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    until, sent = time.monotonic() + seconds, 0
    for _ in KINDS[kind](host):
        sent += 1
        if time.monotonic() >= until:
            break
    sys.stdout.write(f"{sent}\n")


if __name__ == "__main__":
    main()
