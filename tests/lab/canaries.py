"""Datagrams that nothing allows, sent by an agent at a steady rate; sockets where they would arrive, which count them.

python -m tests.lab.canaries send RATE HOST…     prints how many were sent, each tenth of a second
python -m tests.lab.canaries count HOST…         prints how many have arrived, whenever that changes
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from types import TracebackType

from demo.stage import Stage
from tests.lab.gateway import Peer
from tests.lab.net import eventually

PORT = 9999
NEAR = ("10.99.1.1", "fd99:1::1")  # the gateway host's own addresses, as the agent reaches them
GATEWAY = (*NEAR, "10.99.3.1", "fd99:3::1")


class Canaries:
    """An agent that sends canaries to hosts, and their counters outside and on the gateway host."""

    def __init__(self, stage: Stage, hosts: tuple[str, ...], rate: int = 500, namespace: str = "") -> None:
        self._stage, self._hosts, self._rate, self._namespace = stage, hosts, rate, namespace or stage.agent

    def __enter__(self) -> Canaries:
        stage, near = self._stage, tuple(host for host in self._hosts if host in GATEWAY)
        far = tuple(host for host in self._hosts if host not in GATEWAY)
        places = ((stage.outside, far), (stage.gateway, near))
        self._counters = [
            Peer(stage, where, "count", *there, module="tests.lab.canaries") for where, there in places if there
        ]
        for counter in self._counters:
            counter.hears("0")
        self._sender = Peer(stage, self._namespace, "send", str(self._rate), *self._hosts, module="tests.lab.canaries")
        self.flown(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in (self._sender, *self._counters):
            peer.process.kill()

    def sent(self) -> int:
        return int(next((line for line in reversed(self._sender.lines) if line.strip()), "0"))

    def flown(self, count: int) -> None:
        """Wait until so many more were sent."""
        goal = self.sent() + count
        eventually(lambda: self.sent() >= goal, f"{count} canaries are sent", 30.0)

    def lost(self) -> int:
        """End the sender, and count its canaries that have not arrived."""
        self._sender.close()
        sent = self.sent()

        def all_there() -> bool:
            return sum(int(counter.lines[-1]) for counter in self._counters) == sent

        with contextlib.suppress(AssertionError):
            eventually(all_there, "all arrive", 2.0)
        return sent - sum(int(counter.lines[-1]) for counter in self._counters)

    def arrived(self) -> int:
        """Count those that arrived anywhere, once all that are under way had time to."""
        self.flown(20)
        return sum(int(counter.lines[-1]) for counter in self._counters)


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)


def send(out: str, rate: int, hosts: list[str]) -> None:
    sockets = [(_socket(host), host) for host in hosts]
    start, sent, shown = time.monotonic(), 0, 0.0
    with open(out, "a", buffering=1) as lines:  # noqa: PTH123 - line buffered
        while not select.select([sys.stdin], [], [], 0)[0]:  # its end
            for sock, host in sockets:
                with contextlib.suppress(OSError):  # refused, or no route for the moment
                    sock.sendto(b"canary", (host, PORT))
                sent += 1
            now = time.monotonic()
            if now - shown >= 0.1:
                shown = now
                lines.write(f"{sent}\n")
            time.sleep(max(start + sent / rate - time.monotonic(), 0))
        lines.write(f"{sent}\n")


def count(out: str, hosts: list[str]) -> None:
    sockets = []
    for host in hosts:
        sockets.append(_socket(host))
        sockets[-1].bind((host, PORT))
    arrived = 0
    with open(out, "a", buffering=1) as lines:  # noqa: PTH123 - line buffered
        lines.write("0\n")
        while True:
            for sock in select.select(sockets, [], [])[0]:
                sock.recv(99)
                arrived += 1
            lines.write(f"{arrived}\n")


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        count(sys.argv[2], sys.argv[3:])
