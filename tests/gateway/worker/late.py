"""Plays traffic to a worker and prints each module that it imports meanwhile.

`python -m tests.gateway.worker.late DIR` is a process of its own: in a test run other tests have imported everything.
"""

from __future__ import annotations

import contextlib
import random
import sys
from pathlib import Path

from egress.capture import frames
from egress.capture.link import ip_packet
from egress.gateway.worker import preload
from egress.gateway.worker.worker import now
from egress.model import Action, Agent, Rule
from tests.engine.resolver import framed, question, reply
from tests.gateway.worker.test_worker import Bench
from tests.traffic import AGENT4, NETWORKS, SERVER4, client_hello, tcp, udp

CAPTURES = sorted((Path(__file__).parents[2] / "captures").glob("*/capture.pcapng"))
NETS = (*NETWORKS, "10.99.1.0/24", "fd99:1::/64")  # the agents' in the captures
NAMES = (
    "example.org",
    "xn--bcher-kva.example",
    "xn--a.example",
    "xn--.example",
    "xn--99999999.example",
    "b\xfccher.de",
)
SEED = 11


def packets() -> list[bytes]:
    """Collect packets: the captures, names in every protocol that carries one, and noise."""
    found = []
    for path in CAPTURES:
        with path.open("rb") as file:
            found += [raw for frame in frames(file) if (raw := ip_packet(frame.link, frame.data)) is not None]
    for sport, name in enumerate(NAMES, 20000):
        with contextlib.suppress(UnicodeError):
            found.append(udp(AGENT4, "10.0.0.1", sport, 53, question(name, 1, 7)))
            found.append(udp("10.0.0.1", AGENT4, 53, sport, reply(name, rtype=1)))
            found += stream(sport, 53, framed(question(name, 1, 7)))
        with contextlib.suppress(UnicodeError):
            found += stream(sport + 100, 443, client_hello(name))
        found += stream(sport + 200, 80, f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    noise = random.Random(SEED)
    for sport in range(30000, 30400):
        found += stream(sport, noise.choice((22, 53, 80, 443, 3333)), noise.randbytes(noise.randrange(1, 600)))
    return found


def stream(sport: int, dport: int, data: bytes) -> list[bytes]:
    opening = [tcp(AGENT4, SERVER4, sport, dport, 2, 1, 0), tcp(SERVER4, AGENT4, dport, sport, 18, 1, 2)]
    return [*opening, tcp(AGENT4, SERVER4, sport, dport, 24, 2, 2, data)]


def main(directory: Path) -> None:
    who = Agent("a", NETS, default=Action.ACCEPT)
    bench = Bench(directory, who)
    sent = packets()
    late: list[str] = []
    preload.load()
    sys.addaudithook(lambda event, given: late.append(str(given[0])) if event == "import" else None)
    bench.change(Rule("n", Action.ACCEPT, destination="**.xn--bcher-kva.example"), base=-1, version=1)
    bench.change(Rule("m", Action.REJECT, destination="xn--mnchen-3ya.example"), base=1, version=2)
    for raw in sent:
        bench.send(raw)
    bench.worker.failed(ValueError("a bug"))
    bench.worker.second()
    bench.worker.tick()
    bench.worker.counters()
    bench.worker.record(bench.worker.engine.shutdown(now()), now())  # as `stop`, which needs queues
    bench.worker.journal.close()
    sys.stdout.write("".join(f"{name}\n" for name in late))
    sys.stdout.write(f"played {len(sent)} packets, {bench.queue.errors} errors\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
