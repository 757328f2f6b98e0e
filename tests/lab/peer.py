"""Ends of connections, run in a namespace and driven line by line: `python -m tests.lab.peer ROLE OUT …`.

    echo OUT HOST PORT          a TCP and UDP service that answers each line or datagram with itself
    who OUT HOST PORT           a TCP service that sends the caller's address
    sink OUT HOST PORT          a TCP service that answers nothing, and logs `accepted` and `took N` bytes
    tcp OUT HOST PORT [SOURCE]  connect, then send each line of stdin
    udp OUT HOST PORT [SOURCE]  the same with datagrams; a line "*N" sends N bytes, "#N" sends N datagrams
    raw OUT INTERFACE MAC       send each line of stdin, an IP packet in hex, to a neighbour
    beacon OUT HOST PORT PERIOD connect every PERIOD seconds until refused

What happens is appended to the file OUT, a line each: `open MS`, `got TEXT`, `closed`, or the name of an errno
(`timeout` where there is none) with the milliseconds since the attempt began.
"""

from __future__ import annotations

import contextlib
import errno
import io
import select
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path

TIMEOUT = 5.0


class Log:
    """Appends whole lines to a file, from any thread."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - open as long as the process
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        self._file.write(text + "\n")

    def failed(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno, "?") if error.errno else "timeout"
        self.say(f"{name} {self._ms()}")

    def opened(self) -> None:
        self.say(f"open {self._ms()}")

    def _ms(self) -> int:
        return round((time.monotonic() - self.began) * 1000)


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.address_family = family(host)
        super().__init__((host, port), handler)


class Who(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(f"{self.client_address[0]}\n".encode())


def echo(log: Log, host: str, port: int) -> None:
    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a refused connection is reset
                for line in self.rfile:
                    log.say(f"tcp {line[:80].decode(errors='replace').strip()}")
                    self.wfile.write(line)

    def datagrams() -> None:
        while True:
            data, caller = sock.recvfrom(65536)
            log.say(f"udp {len(data)}")
            with contextlib.suppress(OSError):
                sock.sendto(data, caller)

    sock = socket.socket(family(host), socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((host, port))
    threading.Thread(target=datagrams, daemon=True).start()
    with Server(host, port, Echo) as server:
        server.serve_forever()


def who(log: Log, host: str, port: int) -> None:
    with Server(host, port, Who) as server:
        log.opened()
        server.serve_forever()


def sink(log: Log, host: str, port: int) -> None:
    class Sink(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            log.say("accepted")
            while data := self.request.recv(65536):
                log.say(f"took {len(data)}")

    with Server(host, port, Sink) as server:
        server.serve_forever()


def tcp(log: Log, host: str, port: int, source: str = "") -> None:
    try:
        connection = socket.create_connection((host, port), TIMEOUT, (source, 0) if source else None)
    except OSError as error:
        log.failed(error)
        return
    log.opened()
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, io.FileIO(0, closefd=False) as lines:  # unbuffered, so that select sees any bytes left
        while True:
            ready = select.select([connection.fileno(), 0], [], [])[0]
            try:
                if connection.fileno() in ready:
                    data = connection.recv(65536)
                    log.say(f"got {data[:80].decode(errors='replace').strip()}" if data else "closed")
                    if not data:
                        return
                if 0 in ready:
                    line = lines.readline()
                    if not line:
                        return
                    connection.sendall(line)
            except OSError as error:
                log.failed(error)
                return


def udp(log: Log, host: str, port: int, source: str = "") -> None:
    with socket.socket(family(host), socket.SOCK_DGRAM) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect((host, port))
        sock.settimeout(TIMEOUT)
        log.say("ready")
        for line in sys.stdin:
            text = line.strip()
            number = int(text[1:]) if text[0] in "*#" else 0
            log.began = time.monotonic()
            try:
                if text.startswith("#"):
                    for _ in range(number):
                        sock.send(b"x" * 64)
                    log.say("sent")
                    continue
                sock.send(b"x" * number if number else text.encode())
                data = sock.recv(65536)
                log.say(f"got {len(data)}" if number else f"got {data.decode(errors='replace')}")
            except OSError as error:
                log.failed(error)


def raw(log: Log, interface: str, mac: str) -> None:
    """Send with ETH_P_IP or ETH_P_IPV6, by the packet's first four bits; the kernel makes the Ethernet header."""
    neighbour = bytes.fromhex(mac.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        log.say("ready")
        for line in sys.stdin:
            packet = bytes.fromhex(line.strip())
            protocol = 0x86DD if packet[0] >> 4 == 6 else 0x0800
            sock.sendto(packet, (interface, protocol, 0, 0, neighbour))
            log.say("sent")


def beacon(log: Log, host: str, port: int, period: float) -> None:
    while True:
        began = time.monotonic()
        try:
            with socket.create_connection((host, port), TIMEOUT) as connection:
                connection.sendall(b"still here\n")
                if not connection.recv(100):
                    raise ConnectionResetError(errno.ECONNRESET, "closed")
        except OSError as error:
            log.failed(error)
            return
        log.opened()
        time.sleep(max(0.0, began + period - time.monotonic()))


def main(role: str, out: str, *words: str) -> None:
    log = Log(out)
    if role == "echo":
        echo(log, words[0], int(words[1]))
    elif role == "who":
        who(log, words[0], int(words[1]))
    elif role == "sink":
        sink(log, words[0], int(words[1]))
    elif role == "tcp":
        tcp(log, words[0], int(words[1]), *words[2:])
    elif role == "udp":
        udp(log, words[0], int(words[1]), *words[2:])
    elif role == "raw":
        raw(log, *words)
    elif role == "beacon":
        beacon(log, words[0], int(words[1]), float(words[2]))


if __name__ == "__main__":
    main(*sys.argv[1:])
