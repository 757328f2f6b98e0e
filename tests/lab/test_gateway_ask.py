"""Mode ask on real queues: a flow without a rule waits for a decision, which is made as the API makes it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.stage import Stage
from egress.model import Action, Reason
from egress.policy.ruletext import parse_expiry
from egress.store.policy import agents, approvals
from egress.store.policy.approvals import Approval
from tests.lab.gateway import (
    HOSTS,
    PERSON,
    Witness,
    call,
    database,
    edit,
    flows,
    guarded,
    log,
    outcome,
    serve,
    status,
    worker,
)
from tests.lab.names import EVIL, GOOD, RESOLVER, SHARED, resolving
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
ASK = ("--mode", "ask")
TIMEOUT = 4.0  # of a hold; less than the clients'
AT_ONCE = 1.0  # second from a decision to the client's answer
PORTS = range(9000, 9008)
POLICY = """\
rules:
  - {id: closed, action: deny, destination: any, protocol: tcp, ports: 9999}
"""
NAMES = f"""\
rules:
  - {{id: dns, action: allow, destination: {RESOLVER[0]}, ports: 53, app: dns}}
  - {{id: dns6, action: allow, destination: "{RESOLVER[1]}", ports: 53, app: dns}}
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with guarded(POLICY, settings={"limits": {"ask_timeout": TIMEOUT}}, attach=ASK) as running:
        for port in PORTS:
            serve(running, port)
        yield running


def listed(stage: Stage, state: str = "") -> list[Approval]:
    with database(stage) as engine, engine.connect() as connection:
        return list(approvals.listed(connection, state=state))


def asked(stage: Stage, port: int, count: int = 1) -> list[Approval]:
    """Wait until so many approvals about a port are pending."""

    def found() -> list[Approval]:
        return [each for each in listed(stage, approvals.PENDING) if each.dport == port]

    eventually(lambda: len(found()) == count, f"{count} approvals for port {port} are pending")
    return found()


def approve(stage: Stage, found: Approval, duration: str = "1h") -> None:
    ts = time.time()
    expires = parse_expiry(duration, ts)
    edit(stage, lambda connection: approvals.approve(connection, PERSON, found.id, expires=expires, ts=ts))


def deny(stage: Stage, found: Approval) -> None:
    edit(stage, lambda connection: approvals.deny(connection, PERSON, found.id, time.time()))


def destination_port(packet: bytes) -> int:
    return int.from_bytes(packet[42:44] if packet[0] >> 4 == 6 else packet[22:24])


def quarantine(stage: Stage, so: bool) -> None:
    edit(stage, lambda connection: agents.update_agent(connection, PERSON, "rome-7", quarantined=so, ts=time.time()))
    eventually(lambda: status(stage)["agents"][0]["quarantined"] is so, "it is known")


def state(stage: Stage, found: Approval) -> str:
    return next(each.state for each in listed(stage) if (each.id, each.time) == (found.id, found.time))


@FAMILIES
def test_an_approval_opens_the_connection_that_waits(stage: Stage, v6: bool) -> None:
    caller = call(stage, HOSTS[v6], PORTS[0])
    (found,) = asked(stage, PORTS[0])
    assert (found.agent, found.proto, found.destination, found.query) == ("rome-7", "tcp", HOSTS[v6], False)
    assert not caller.lines
    began = time.monotonic()
    approve(stage, found)
    caller.hears("open")
    assert time.monotonic() - began < AT_ONCE
    caller.send("hello")
    caller.hears("got hello")
    assert state(stage, found) == approvals.APPROVED
    assert outcome(stage, HOSTS[v6], PORTS[0]) == "open", "an approved destination does not ask again"
    assert not listed(stage, approvals.PENDING)


@FAMILIES
def test_a_denial_refuses_the_connection_that_waits(stage: Stage, v6: bool) -> None:
    caller = call(stage, HOSTS[v6], PORTS[1])
    (found,) = asked(stage, PORTS[1])
    began = time.monotonic()
    deny(stage, found)
    caller.hears("ECONNREFUSED")
    assert time.monotonic() - began < AT_ONCE
    assert state(stage, found) == approvals.DENIED


def test_nobodys_answer_is_a_refusal(stage: Stage) -> None:
    for caller in [call(stage, host, PORTS[2]) for host in HOSTS]:
        word, milliseconds = caller.outcome(TIMEOUT + 2)
        assert word == "ECONNREFUSED"
        assert TIMEOUT * 1000 - 100 < milliseconds < TIMEOUT * 1000 + 900
    eventually(lambda: not listed(stage, approvals.PENDING), "nothing waits")
    assert [each.state for each in listed(stage) if each.dport == PORTS[2]] == ["expired"] * 2


def test_what_a_rule_denies_asks_nobody(stage: Stage) -> None:
    word, milliseconds = call(stage, HOSTS[0], 9999).outcome()
    assert (word, milliseconds < 1000) == ("ECONNREFUSED", True)


def test_many_wait_at_once_and_each_gets_its_own_answer(stage: Stage) -> None:
    ports = PORTS[3:7]
    callers = {(host, port): [call(stage, host, port) for _ in range(2)] for port in ports for host in HOSTS}
    waiting = {(each.dst, each.dport): each for port in ports for each in asked(stage, port, 2)}
    assert len(waiting) == len(callers)
    eventually(lambda: status(stage)["holds"]["pending"] == len(callers), "the gateway says so")
    began = time.monotonic()
    for number, found in enumerate(waiting.values()):
        (deny if number % 2 else approve)(stage, found)
    for number, place in enumerate(waiting):
        for caller in callers[place]:
            caller.hears("ECONNREFUSED" if number % 2 else "open")
    assert time.monotonic() - began < TIMEOUT
    eventually(lambda: worker(stage)["counters"]["waiting"] == 0, "nothing is kept")
    assert worker(stage)["counters"]["holds"] == 0


def test_a_quarantine_refuses_what_waits(stage: Stage) -> None:
    caller = call(stage, HOSTS[0], PORTS[7])
    (found,) = asked(stage, PORTS[7])
    quarantine(stage, True)
    caller.hears("ECONNREFUSED")
    quarantine(stage, False)
    eventually(lambda: state(stage, found) == approvals.WITHDRAWN, "it is withdrawn")


def test_a_worker_that_dies_lets_nothing_pass_and_its_holds_are_withdrawn(stage: Stage) -> None:
    before = worker(stage)["pid"]
    with Witness(stage) as witness:
        callers = [call(stage, host, PORTS[7]) for host in HOSTS]
        waiting = asked(stage, PORTS[7], 2)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: {state(stage, each) for each in waiting} == {approvals.WITHDRAWN}, "they are withdrawn")
        eventually(lambda: worker(stage)["pid"] not in (None, before), "there is another worker")
        assert PORTS[7] not in map(destination_port, witness.packets())
    assert not any(line.startswith("open") for caller in callers for line in caller.lines)
    again = asked(stage, PORTS[7], 2)  # the clients' own next tries
    assert {each.id for each in again} == {each.id for each in waiting}


def test_all_of_it_is_on_record(stage: Stage) -> None:
    """This test is the last of those that share a stage: it stops the gateway."""
    assert stage.stop() == 0, log(stage)
    assert not listed(stage, approvals.PENDING)
    kept = flows(stage)
    for host in HOSTS:
        ends = {(flow.dport, flow.action, flow.reason) for flow in kept if flow.dst == host}
        assert {end for end in ends if end[0] in PORTS[:3]} == {
            (PORTS[0], Action.ACCEPT, Reason.RULE),
            (PORTS[1], Action.REJECT, Reason.APPROVAL),
            (PORTS[2], Action.REJECT, Reason.APPROVAL),
        }


needs_servers = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("dnsmasq", "openssl", "curl")), reason="needs dnsmasq, openssl, curl"
)


@needs_servers
@FAMILIES
def test_a_name_is_resolved_and_the_connection_waits_for_a_person(v6: bool) -> None:
    with resolving(NAMES, v6=v6, attach=ASK) as place, ThreadPoolExecutor() as pool:
        fetched = pool.submit(place.curl, f"-{'6' if v6 else '4'}", f"https://{GOOD}/page")
        (found,) = asked(place.stage, 443)
        assert (found.query, found.destination, found.proto, found.dst) == (False, GOOD, "tcp", SHARED[v6])
        assert [each.dport for each in listed(place.stage)] == [443], "the query waited for nobody"
        approve(place.stage, found)
        assert fetched.result() == (0, "here is /page\n")
        assert place.at(GOOD, SHARED[v6], port=8443)[0] != 0, "the rule is for the port that was shown"


@needs_servers
def test_a_query_that_waits_is_answered_in_time_and_its_hold_goes_on() -> None:
    with resolving(NAMES, settings={"limits": {"ask_names": 0}}, attach=ASK) as place, ThreadPoolExecutor() as pool:
        (said,) = place.ask(RESOLVER[0], "udp", 1, GOOD)
        assert said == "answer 2", "SERVFAIL: its client tries again"
        (found,) = asked(place.stage, 53)
        assert (found.query, found.destination) == (True, GOOD) and GOOD not in place.heard()
        again = pool.submit(place.ask, RESOLVER[0], "udp", 1, GOOD)
        approve(place.stage, found)
        assert again.result() == ["answer 0"]
        refused = pool.submit(place.ask, RESOLVER[0], "udp", 1, EVIL)
        (found,) = asked(place.stage, 53)
        deny(place.stage, found)
        assert refused.result() == ["answer 3"]
        assert place.ask(RESOLVER[0], "udp", 1, EVIL) == ["answer 3"]
        assert not listed(place.stage, approvals.PENDING), "what was denied is not asked again at once"
        assert EVIL not in place.heard()
