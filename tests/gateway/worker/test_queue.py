"""Real netfilter queues, in a namespace of their own: depth, flags, verdicts, faults, overruns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.gateway.kernel.drops import Drops, drops
from tests.lab.net import Lab, needs_root

PRELUDE = """
import json, select, socket, sys, time
from egress.gateway.kernel.drops import drops
from egress.gateway.worker.queue import DISCARD, PARKED, PacketQueue
from egress.gateway.kernel import privileges
MASK, MARK = 0x0F000000, 0x02000000
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 9999)); receiver.settimeout(0.3)  # 33: SO_RCVBUFFORCE
receiver.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(*sizes):
    for size in sizes: sender.sendto(bytes(size), ("127.0.0.1", 9999))
def received():
    found = []
    try:
        while True: found.append(len(receiver.recv(70000)))
    except TimeoutError: return found
def serve(queue):
    while select.select([queue], [], [], 0.3)[0]: queue.run()
def bound(judge, failed=lambda error: DISCARD, settled=False, copy=65531, length=1024):
    queue = PacketQueue(7000, judge, failed, mark_mask=MASK)
    queue.bind(length=length, copy_range=copy, settled=settled, fail_open=False)
    return queue
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[tuple[Lab, str]]:
    """Queue UDP to port 9999 in mangle OUTPUT; then drop packets with our refusal mark in filter OUTPUT."""
    with Lab() as network:
        namespace = network.ns("queue")
        for rule in (
            "-t mangle -A OUTPUT -p udp --dport 9999 -j MARK --set-mark 0x70000007",
            "-t mangle -A OUTPUT -p udp --dport 9999 -j NFQUEUE --queue-num 7000",
            "-A OUTPUT -m mark --mark 0x02000000/0x0f000000 -j DROP",
            "-A OUTPUT -m mark --mark 0x70000007/0xf0ffffff",
        ):
            network.run(namespace, ["iptables", *rule.split()], check=True)
        yield network, namespace


def run(lab: tuple[Lab, str], code: str) -> Any:
    return json.loads(lab[0].python(lab[1], PRELUDE + code).splitlines()[-1])


@needs_root
def test_the_full_queue_sees_every_byte(lab: tuple[Lab, str]) -> None:
    seen, got, status = run(
        lab,
        """
seen = []
queue = bound(lambda raw, indev, outdev, own, packet: seen.append((len(raw), indev, outdev, own.settled)) or 0)
status = open("/proc/net/netfilter/nfnetlink_queue").read().split()
send(1, 4016, 4097, 60000); serve(queue)
print(json.dumps([seen, received(), status]))
""",
    )
    assert [length for length, *_ in seen] == [29, 4044, 4125, 60028]
    assert {(indev, outdev > 0, settled) for _, indev, outdev, settled in seen} == {(0, True, False)}
    assert got == [1, 4016, 4097, 60000]
    assert status[3:5] == ["2", "65531"]


@needs_root
def test_the_settled_queue_sees_the_front_and_harms_nothing(lab: tuple[Lab, str]) -> None:
    seen, got = run(
        lab,
        """
seen = []
queue = bound(lambda raw, *_: seen.append(len(raw)) or 0, settled=True, copy=3072)
send(100, 60000); serve(queue)
print(json.dumps([seen, received()]))
""",
    )
    assert seen == [128, 3072]
    assert got == [100, 60000]


@needs_root
def test_marks_keep_other_peoples_bits_and_decide_later(lab: tuple[Lab, str]) -> None:
    got = run(
        lab,
        """
queue = bound(lambda raw, *_: MARK if len(raw) == 38 else DISCARD if len(raw) == 39 else 0xFFFFFFFF & ~MASK)
send(10, 11, 12); serve(queue)
print(json.dumps(received()))
""",
    )
    assert got == [12]
    counted = lab[0].run(lab[1], ["iptables", "-vnxL", "OUTPUT"], check=True).stdout
    kept = next(line for line in counted.splitlines() if "0x70000007/0xf0ffffff" in line)
    assert int(kept.split()[0]) >= 1, "the judge's own foreign bits must not reach the packet, nor lose those it had"


@needs_root
def test_what_is_kept_waits_in_the_kernel_until_it_is_answered_or_judged_again(lab: tuple[Lab, str]) -> None:
    rounds, waiting = run(
        lab,
        """
kept, seen = [], []
def judge(raw, indev, outdev, own, packet):
    seen.append(len(raw) - 28)
    if packet in kept or len(raw) == 28 + 9: return 0
    kept.append(packet)
    return PARKED
queue = bound(judge)
def waits(): return int(open("/proc/net/netfilter/nfnetlink_queue").read().split()[2])
send(10, 9, 11, 12, 13); serve(queue)
rounds, waiting = [received()], [waits()]
queue.answer(kept[0], 0); queue.answer(kept[1], DISCARD); queue.answer(kept[2], MARK)
rounds.append(received()); waiting.append(waits())
queue.judge(kept[3], bytes(28 + 13))
rounds.append(received()); waiting.append(waits())
rounds.append(seen)
print(json.dumps([rounds, waiting]))
""",
    )
    assert rounds == [[9], [10], [13], [10, 9, 11, 12, 13, 13]]
    assert waiting == [4, 1, 0]


@needs_root
def test_what_waits_in_a_queue_that_is_given_back_is_dropped(lab: tuple[Lab, str]) -> None:
    got, later = run(
        lab,
        """
queue = bound(lambda *_: PARKED)
send(10, 11); serve(queue)
queue.close()
got = received()
queue = bound(lambda *_: 0)
send(12); serve(queue)
print(json.dumps([got, received()]))
""",
    )
    assert got == []
    assert later == [12]


@needs_root
def test_an_answer_for_a_packet_that_the_kernel_has_dropped_changes_nothing(lab: tuple[Lab, str]) -> None:
    """The kernel drops a packet whose interface has gone, because its sandbox ended while it waited."""
    got, errors, waiting = run(
        lab,
        """
import subprocess
def ip(*words): subprocess.run(["ip", *words], check=True)
ip("link", "add", "gone0", "type", "veth", "peer", "gone1")
ip("addr", "add", "192.0.2.1/24", "dev", "gone0"); ip("link", "set", "gone0", "up"); ip("link", "set", "gone1", "up")
ip("neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "gone0")
kept = []
queue = bound(lambda raw, indev, outdev, own, one: PARKED if kept.append(one) is None and len(kept) == 1 else 0)
sender.sendto(b"x", ("192.0.2.2", 9999)); serve(queue)
ip("link", "del", "gone0")
waiting = int(open("/proc/net/netfilter/nfnetlink_queue").read().split()[2])
queue.answer(kept[0], MARK)
send(10, 11); serve(queue)
print(json.dumps([received(), queue.errors, waiting]))
""",
    )
    assert got == [10, 11]
    assert (errors, waiting) == (0, 0)


@needs_root
def test_a_fault_of_the_judge_is_a_drop_and_the_queue_goes_on(lab: tuple[Lab, str]) -> None:
    errors, told, got = run(
        lab,
        """
told = []
def judge(raw, *_):
    if len(raw) == 38: raise ValueError("boom")
    return 0
queue = bound(judge, failed=lambda error: told.append(str(error)) or MARK)
send(10, 11, 10, 12); serve(queue)
print(json.dumps([queue.errors, told, received()]))
""",
    )
    assert errors == 2
    assert told == ["boom", "boom"]
    assert got == [11, 12]


@needs_root
def test_a_turn_is_bounded_and_a_slow_packet_is_paid_back_in_the_turns_after_it(lab: tuple[Lab, str]) -> None:
    first, turns, rest, left = run(
        lab,
        """
slow = [0.05]
queue = bound(lambda *_: time.sleep(slow.pop() if slow else 0.001) or 0)
send(*[9] * 12)
first, turns = queue.run(0.01), 0
while not (done := queue.run(0.01)): turns += 1
print(json.dumps([first, turns, done, sum(queue.run(0.01) for _ in range(100))]))
""",
    )
    assert first == 1, "the turn was over with the slow packet"
    assert turns >= 2, "40 ms of debt are four turns; more on a busy machine"
    assert 1 <= rest <= 11
    assert first + rest + left == 12


@needs_root
def test_a_closed_queue_takes_and_answers_nothing(lab: tuple[Lab, str]) -> None:
    got, runs = run(
        lab,
        """
kept = []
queue = bound(lambda raw, indev, outdev, own, one: kept.append(one) or PARKED)
send(10, 11); serve(queue)
queue.close()
queue.answer(kept[0], MARK); queue.answer(kept[1], DISCARD)
print(json.dumps([received(), queue.run()]))
""",
    )
    assert (got, runs) == ([], 0)


@needs_root
def test_an_overrun_is_counted_and_is_over_when_it_is_over(lab: tuple[Lab, str]) -> None:
    lost, after, number = run(
        lab,
        """
queue = bound(lambda *_: 0, length=32)
send(*[9] * 100)
lost = drops()[7000]
serve(queue); first = received()
send(*[9] * 20); serve(queue)
print(json.dumps([list(lost), [len(first), len(received())], drops()[7000].queue]))
""",
    )
    assert lost == [68, 0]
    assert after == [32, 20]
    assert number == 68


@needs_root
def test_verdicts_work_without_root(lab: tuple[Lab, str]) -> None:
    uid, got = run(
        lab,
        """
import os
queue = bound(lambda *_: 0)
privileges.drop("nobody", os.getppid())
send(5, 6); serve(queue)
print(json.dumps([os.getuid(), received()]))
""",
    )
    assert uid != 0
    assert got == [5, 6]


@needs_root
def test_a_queue_of_somebody_else_is_one_line(lab: tuple[Lab, str]) -> None:
    text = run(
        lab,
        """
from egress.errors import EgressError
first = bound(lambda *_: 0)
try: bound(lambda *_: 0)
except EgressError as error: print(json.dumps(str(error)))
""",
    )
    assert "queue 7000" in text
    assert "\n" not in text


def test_drops_are_read_by_number(tmp_path: Path) -> None:
    file = tmp_path / "nfnetlink_queue"
    file.write_text(
        " 7400  17389     0 2 65531     3     4     1021  1\n 7401  17389     0 2  3072     0     0        0  1\n"
    )
    assert drops(file) == {7400: Drops(3, 4), 7401: Drops(0, 0)}
    assert drops(tmp_path / "none") == {}
