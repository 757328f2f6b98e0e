"""The traffic of a trial, as two processes: `python -m bench.chaos.traffic ROLE OUT …`.

    send OUT RATE    in the agent's namespace, until SIGTERM: RATE canaries a second, which no rule allows (datagrams
                     and SYNs, both families, some of them new flows); CONTENTS connections a second to the SSH port,
                     which then speak HTTP; PROBES datagrams a second that a rule allows, each a flow of its own.
                     Appends the time and the numbers of canaries and contents so far, about twenty times a second.
    witness OUT      outside: appends the time and kind of each packet that arrives: canary, content, or probe with its
                     source address and port.

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from egress.errors import MalformedError
from egress.model import ACK, SYN, TCP, UDP
from egress.wire.packet import decode

SERVERS = ("10.99.2.2", "fd99:2::2")
PROBE, CANARY, SSH = 7000, 9000, 22  # ports outside
PROBES, CONTENTS = 20.0, 4.0  # a second
CONTENT = b"GET /canary HTTP/1.1\r\nHost: canary.example\r\n\r\n"
KEPT = 0.5  # seconds for which an attempt to connect is kept open
SPORT, SPORTS = 10_000, 20_000  # source ports of probes
ETH_P_ALL, OUTGOING = 3, 4  # linux/if_ether.h, linux/if_packet.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
REPORT = 0.05  # seconds between two lines of the sender


class Sender:
    """The agent's traffic. A packet that the agent's own kernel does not send is not counted."""

    def __init__(self) -> None:
        self.canaries = self.contents = 0
        self._datagrams = [self._datagram(server) for server in SERVERS]
        self._attempts: deque[tuple[float, socket.socket]] = deque()
        self._silent: list[socket.socket] = []  # connections that have not sent their content

    def canary(self, number: int) -> None:
        """Send one datagram or one SYN that no rule allows; the number selects which, and the family."""
        family, server = number % 2, SERVERS[number % 2]
        with contextlib.suppress(OSError):
            if number % 8 > 5:
                self._connect(server, CANARY)
            else:
                if number % 10 < 4:
                    self._datagrams[family].close()
                    self._datagrams[family] = self._datagram(server)
                with contextlib.suppress(OSError):  # the refusal of an earlier one
                    self._datagrams[family].recv(1)
                self._datagrams[family].sendto(b"canary", (server, CANARY))
            self.canaries += 1

    def content(self, number: int) -> None:
        """Open a connection that a rule allows for SSH, its family by the number; `settle` sends HTTP in it."""
        with contextlib.suppress(OSError):
            self._silent.append(self._connect(SERVERS[number % 2], SSH))

    def probe(self, number: int) -> None:
        """Send a datagram that a rule allows, as a flow of its own."""
        server = SERVERS[number % 2]
        with contextlib.suppress(OSError), self._datagram(server) as sock:
            sock.bind(("", SPORT + number % SPORTS))
            sock.sendto(b"probe", (server, PROBE))

    def settle(self) -> None:
        """Send content in the connections that were accepted, and close those that are old."""
        for sock in list(self._silent):
            try:
                sock.send(CONTENT)
                self.contents += 1
            except BlockingIOError:
                continue
            except OSError:
                pass
            self._silent.remove(sock)
        while self._attempts and self._attempts[0][0] < time.monotonic():
            _, sock = self._attempts.popleft()
            if sock in self._silent:
                self._silent.remove(sock)
            sock.close()

    @staticmethod
    def _datagram(server: str) -> socket.socket:
        """Make a UDP socket of the server's family that does not block."""
        sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        return sock

    def _connect(self, server: str, port: int) -> socket.socket:
        """Begin a connection, which `settle` closes after KEPT seconds."""
        sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._attempts.append((time.monotonic() + KEPT, sock))
        with contextlib.suppress(BlockingIOError):
            sock.connect((server, port))
        return sock


class Rhythm:
    """Calls `act` with 0, 1, 2 … at a rate per second; turns that are late by more than a second are left out."""

    def __init__(self, act: Callable[[int], None], rate: float) -> None:
        self._act, self._gap, self._number, self.due = act, 1 / rate, 0, time.monotonic()

    def run(self, now: float) -> None:
        """Call `act` for each turn that is due at `now`."""
        self.due = max(self.due, now - 1.0)
        while self.due <= now:
            self._act(self._number)
            self._number += 1
            self.due += self._gap


def send(out: str, rate: float) -> None:
    """Send the agent's traffic until SIGTERM, `rate` canaries a second, and append the counts to the file `out`."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    sender = Sender()
    rhythms = [Rhythm(sender.canary, rate), Rhythm(sender.content, CONTENTS), Rhythm(sender.probe, PROBES)]
    with Path(out).open("a", buffering=1) as log:
        told = 0.0
        while not stop:
            now = time.monotonic()
            for rhythm in rhythms:
                rhythm.run(now)
            sender.settle()
            if now - told >= REPORT:
                told = now
                log.write(f"{now:.3f} {sender.canaries} {sender.contents}\n")
            time.sleep(max(min(rhythm.due for rhythm in rhythms) - time.monotonic(), 0.001))
        log.write(f"{time.monotonic():.3f} {sender.canaries} {sender.contents}\n")


def kind_of(raw: bytes) -> str:
    """Return `canary`, `content`, or `probe ADDRESS PORT` with its source; "" for a packet that `send` did not send."""
    try:
        packet = decode(raw, None)
    except MalformedError:
        return ""
    if packet.proto == UDP and packet.dport == PROBE:
        family = socket.AF_INET if packet.version == 4 else socket.AF_INET6
        return f"probe {socket.inet_ntop(family, packet.src)} {packet.sport}"
    if packet.dport == CANARY and (packet.proto == UDP or packet.flags & (SYN | ACK) == SYN):
        return "canary"
    return "content" if packet.proto == TCP and packet.dport == SSH and b"canary" in packet.payload else ""


def witness(out: str) -> None:
    """Listen on the SSH port, and append each packet of the sender that arrives to the file `out`, forever."""
    listeners = []
    for server in SERVERS:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        listeners.append(socket.create_server((server, SSH), family=family, backlog=4096))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        sniffer.bind(("eth0", ETH_P_ALL))
        with Path(out).open("a", buffering=1) as log:
            log.write(f"{time.monotonic():.3f} ready\n")
            while True:
                raw, (_, _, kind, *_) = sniffer.recvfrom(65535)
                found = kind_of(raw) if kind != OUTGOING else ""
                if found:
                    log.write(f"{time.monotonic():.3f} {found}\n")


if __name__ == "__main__":
    if sys.argv[1] == "witness":
        witness(sys.argv[2])
    else:
        send(sys.argv[2], float(sys.argv[3]))
