"""Peers for protocols that no package offers: a mining pool and its client, a beacon and its server.

    python -m demo.peers pool HOST PORT FILE  a Stratum V1 pool; writes the methods it receives to FILE, one per line
    python -m demo.peers miner HOST PORT N    subscribe, authorize, submit a share, in segments of N bytes
    python -m demo.peers beacon HOST PORT     connect about once a second (20 % jitter) until refused
    python -m demo.peers echo HOST PORT       a TCP service that answers one line with the same line

They exchange the messages only: no hash is computed, no share is mined.
"""

from __future__ import annotations

import fcntl
import json
import random
import select
import socket
import socketserver
import sys
import termios
import time
from pathlib import Path

TIMEOUT = 5.0  # seconds a client waits for an answer
JITTER = 0.2
BEATS = 60  # connections of a beacon, at most


class Server(socketserver.ThreadingTCPServer):
    """A TCP server over IPv4 or IPv6, with a thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[socketserver.StreamRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)


def pool(host: str, port: int, heard: Path) -> None:
    """Serve as a mining pool forever; append each method that it receives to the file `heard`."""

    class Miner(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                message = json.loads(line)
                with heard.open("a") as log:
                    log.write(f"{message['method']}\n")
                answer = {"id": message["id"], "result": True, "error": None}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    heard.touch()
    with Server(host, port, Miner) as server:
        server.serve_forever()


def echo(host: str, port: int) -> None:
    """Answer the first line of each connection with the same line, forever."""

    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with Server(host, port, Echo) as server:
        server.serve_forever()


def miner(host: str, port: int, segment: int) -> int:
    """Send a miner's messages in segments of `segment` bytes; print the outcome.

    Returns the exit status: 0 if the share was accepted, 3 if the connection was refused or cut.
    """
    calls = [
        ("mining.subscribe", ["cgminer/4.11.1"]),
        ("mining.authorize", ["worker.1", "x"]),
        ("mining.submit", ["worker.1", "job", "00000001", "5f5e1000", "deadbeef"]),
    ]
    try:
        with socket.create_connection((host, port), TIMEOUT) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = connection.makefile("rb")
            for number, (method, params) in enumerate(calls):
                text = json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n"
                for at in range(0, len(text), segment):
                    connection.send(text[at : at + segment])
                    _delivered(connection)
                if not answers.readline():
                    return 3
    except OSError as error:
        print(f"miner: {error}")
        return 3
    print("miner: share accepted")
    return 0


def _delivered(connection: socket.socket) -> None:
    """Wait until all bytes are acknowledged or an answer comes: else the kernel would join waiting segments."""
    left = b"\x01"
    while any(left) and not select.select([connection], [], [], 0.0005)[0]:
        left = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ, tcp(7)


def beacon(host: str, port: int) -> int:
    """Connect once a second, with jitter, and send a line; print the outcome.

    Returns the exit status: 0 after all BEATS, 3 if a connection was refused or cut before.
    """
    for beat in range(BEATS):
        try:
            with socket.create_connection((host, port), TIMEOUT) as connection:
                connection.sendall(b"still here\n")
                if not connection.recv(100):
                    raise ConnectionError("closed")
        except OSError as error:
            print(f"beacon: refused after {beat} beats: {error}")
            return 3
        time.sleep(random.uniform(1 - JITTER, 1 + JITTER))
    return 0


def main(role: str, *words: str) -> int:
    """Run the program that `role` names. Returns its exit status; 2 for an unknown role."""
    if role == "pool":
        pool(words[0], int(words[1]), Path(words[2]))
    elif role == "echo":
        echo(words[0], int(words[1]))
    elif role == "miner":
        return miner(words[0], int(words[1]), int(words[2]))
    elif role == "beacon":
        return beacon(words[0], int(words[1]))
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
