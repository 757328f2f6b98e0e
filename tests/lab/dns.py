"""A DNS client and a DNS server, without a library: `python -m tests.lab.dns ROLE …`.

ask HOST PROTO TYPE NAME…       ask for each name (as it is spelled) over udp or tcp, each on a socket of its own; a
                                line each: `answer RCODE MS`, or an errno's name (`timeout`) and milliseconds
liar OUT HOST ADDRESS           a resolver with one ADDRESS for every name; its first answer has another id than
                                the question
"""

from __future__ import annotations

import socket
import sys
import time

from tests.engine.resolver import question
from tests.lab.peer import TIMEOUT, Log, family

PORT = 53


def ask(host: str, proto: str, rtype: str, *names: str) -> None:
    log = Log("/dev/stdout")
    for name in names:
        message = question(name, int(rtype), len(name))
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family(host), kind) as sock:
            sock.settimeout(TIMEOUT)
            try:
                sock.connect((host, PORT))
                log.began = time.monotonic()
                sock.sendall(len(message).to_bytes(2) + message if kind is socket.SOCK_STREAM else message)
                data = sock.recv(65536)
            except OSError as error:
                log.failed(error)
            else:
                at = 5 if kind is socket.SOCK_STREAM else 3
                log.say(f"answer {data[at] & 15 if data else 'closed'}")


def liar(out: str, host: str, address: str) -> None:
    log = Log(out)
    packed = socket.inet_pton(family(address), address)
    with socket.socket(family(host), socket.SOCK_DGRAM) as sock:
        sock.bind((host, PORT))
        log.opened()
        wrong = 1
        while True:
            data, caller = sock.recvfrom(4096)
            ident = (int.from_bytes(data[:2]) + wrong) & 0xFFFF
            record = b"\xc0\x0c" + data[-4:] + (60).to_bytes(4) + len(packed).to_bytes(2) + packed
            sock.sendto(ident.to_bytes(2) + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:] + record, caller)
            log.say("lied" if wrong else "answered")
            wrong = 0


def main(role: str, *words: str) -> None:
    if role == "ask":
        ask(*words)
    elif role == "liar":
        liar(*words)


if __name__ == "__main__":
    main(*sys.argv[1:])
