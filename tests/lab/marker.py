"""A gateway stand-in for tests of the kernel rules: answers two queues with marks, by the packets' content.

    python tests/lab/marker.py FULL SETTLED

Prints `ready`, then a line a packet: queue, IP version, protocol, hook, and the word acted on. A payload that holds
SETTLE, REFUSE, DROP or RECHECK gets that mark; a TCP SYN or UDP packet to port 9 is refused at once.
"""

from __future__ import annotations

import select
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netfilterqueue import NetfilterQueue, Packet

from egress.config import Config
from egress.gateway.kernel.marks import Marks

MARKS = Marks(Config().mark_mask)
WORDS = {b"SETTLE": "settled", b"REFUSE": "refused", b"DROP": "dropped", b"RECHECK": "recheck"}


def judge(queue: int, packet: Packet) -> None:
    raw = packet.get_payload()
    version = raw[0] >> 4
    header = (raw[0] & 15) * 4 if version == 4 else 40
    proto = raw[9] if version == 4 else raw[6]
    mark = next((name for word, name in WORDS.items() if word in raw), "")
    if proto in (6, 17) and int.from_bytes(raw[header + 2 : header + 4]) == 9:
        mark = "refused"
    if mark:
        packet.set_mark(MARKS.put(packet.get_mark(), mark))
    sys.stdout.write(f"{queue} v{version} p{proto} h{packet.hook} m{packet.get_mark() >> MARKS.shift & 15} {mark}\n")
    sys.stdout.flush()
    packet.accept()


def main() -> None:
    queues = []
    for number in map(int, sys.argv[1:]):
        queue = NetfilterQueue()
        queue.bind(number, partial(judge, number))
        queues.append(queue)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for ready in select.select([queue.get_fd() for queue in queues], [], [])[0]:
            next(queue for queue in queues if queue.get_fd() == ready).run(block=False)


if __name__ == "__main__":
    main()
