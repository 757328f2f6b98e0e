"""Datapaths to compare: plain forwarding, a bare accept-all queue, the gateway. Each has three namespaces of its own.

`python -m bench.paths accept NUMBER` is the bare queue: plain NetfilterQueue with a callback that only accepts.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

from demo.stage import SERVER, Stage
from tests.lab.net import eventually

ALLOW_ALL = "rules:\n  - {action: allow, destination: any}\n"
QUEUE = 7300


@contextlib.contextmanager
def plain() -> Iterator[Stage]:
    """Connect agent and server by a router alone."""
    with Stage(ALLOW_ALL) as stage:
        yield stage


@contextlib.contextmanager
def accept_all() -> Iterator[Stage]:
    """Queue every packet from and to the agent to a callback that only accepts."""
    with Stage(ALLOW_ALL) as stage:
        for command in ("iptables", "ip6tables"):
            stage.lab.run(
                stage.gateway,
                [command, "-t", "mangle", "-A", "FORWARD", "-j", "NFQUEUE", "--queue-num", str(QUEUE)],
                check=True,
            )
        stage.lab.popen(stage.gateway, [sys.executable, "-m", "bench.paths", "accept", str(QUEUE)])
        bound = ["cat", "/proc/net/netfilter/nfnetlink_queue"]
        eventually(lambda: str(QUEUE) in stage.lab.run(stage.gateway, bound).stdout, "the queue is bound")
        yield stage


@contextlib.contextmanager
def gateway() -> Iterator[Stage]:
    """Start the gateway with all signatures and one worker."""
    with Stage(ALLOW_ALL) as stage:
        stage.attach("bench")
        stage.start("--workers", "1")
        yield stage


def bulk_tcp(stage: Stage, seconds: float) -> float:
    """Measure one TCP stream out of the sandbox (iperf3), in Gbit/s."""
    stage.lab.popen(stage.outside, ["iperf3", "-s", "-1", "-p", "5201"])
    stage.listening(5201)
    command = ["iperf3", "-c", SERVER[0], "-p", "5201", "-t", str(seconds), "-J"]
    report = json.loads(stage.lab.run(stage.agent, command, seconds + 20, check=True).stdout)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def small_udp(stage: Stage, seconds: float) -> float:
    """Measure how many 64-byte UDP packets arrive per second, sent at full speed by one process in one flow."""
    receiver = stage.lab.popen(stage.outside, [sys.executable, "-m", "bench.blast", "receive", "5300", str(seconds)])
    eventually(lambda: ":5300 " in stage.lab.run(stage.outside, ["ss", "-Hlun"]).stdout, "the receiver is up")
    send = [sys.executable, "-m", "bench.blast", "send", SERVER[0], "5300", str(seconds)]
    stage.lab.run(stage.agent, send, seconds + 20, check=True)
    output, errors = receiver.communicate(timeout=seconds + 20)
    if receiver.returncode:
        raise RuntimeError(errors)
    return float(output)


def accept(number: int) -> None:
    """Accept every packet of a queue, forever."""
    from netfilterqueue import NetfilterQueue

    queue = NetfilterQueue()
    queue.bind(number, lambda packet: packet.accept(), max_len=4096)
    queue.run()


if __name__ == "__main__":
    accept(int(sys.argv[2]))
