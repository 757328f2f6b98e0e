"""mining.stratum: real openings of each dialect, hints that need the other side, and what a finding says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress.dissection.events import StratumSpoken
from egress.engine.patterns import Patterns
from egress.engine.signature import FlowView
from egress.model import ACK, EVIDENCE_BYTES, Direction, Effect, Finding, Severity
from egress.wire.packet import decode
from egress.wire.stratum import StratumCall
from signatures.mining_stratum import MiningStratum
from tests.traffic import AGENT4, SERVER4, tcp

Hear = Callable[..., list[Finding]]
MakeFlow = Callable[..., FlowView]
OUT, IN = Direction.OUT, Direction.IN

XMR = "4" + "A1bC" * 23 + "zZ"
H1, H2, BOUNDARY = "0x" + "1f" * 32, "0x" + "2e" * 32, "0x00000000" + "ff" * 28
JOB = {"blob": "0e" * 76, "job_id": "7", "target": "b88d0600"}
LOGIN = json.dumps({"id": 1, "method": "login", "params": {"login": XMR, "pass": "x", "agent": "XMRig/6.21.0 (Linux)"}})
WEAK_LOGIN = b'{"id":1,"method":"login","params":{"login":"me","pass":"x"}}\n'
OPENINGS = {
    "xmrig": LOGIN.encode() + b"\n",
    "cgminer": b'{"id": 0, "method": "mining.subscribe", "params": ["cgminer/4.10.0"]}\n',
    "ethproxy": b'{"worker":"eth1.0","params":["0x%s.r","x"],"id":2,"method":"eth_submitLogin"}\n' % (b"ab" * 20),
    "zcash": b'{"id":1,"method":"mining.subscribe","params":["EWBF 0.3.4b",null,"zec.example","3333"]}\n',
    "nicehash": b'{"id":1,"method":"mining.subscribe","params":["m/1","EthereumStratum/1.0.0"]}\n',
    "escaped": b'{"\\u006dethod":"\\u006dining.authorize","params":["w","x"],"id":2}\n',
}  # fmt: skip
ANSWERS = {
    "monero": json.dumps({"id": 1, "result": {"id": "u", "job": JOB, "status": "OK"}}).encode() + b"\n",
    "notify": b'{"id":null,"method":"mining.notify","params":["j","00","01","02",[],"2","1d","5f",true]}\n',
    "subscribed": b'{"id":1,"result":[[["mining.notify","x"]],"0800",8],"error":null}\n',
    "ether": json.dumps({"id": 0, "result": [H1, H2, BOUNDARY]}).encode() + b"\n",
}


@pytest.mark.parametrize("size", [1, 7, 1460])
@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
def test_the_first_message_of_a_miner_is_enough(hear: Hear, opening: bytes, size: int) -> None:
    findings = hear(MiningStratum(), [(OUT, opening)], size=size)
    assert len(findings) == 1
    finding = findings[0]
    assert (finding.signature, finding.severity, finding.technique) == (
        "mining.stratum",
        Severity.CRITICAL,
        "T1496.001",
    )
    assert finding.effect is Effect.FLOW and finding.evidence == opening.rstrip()[:EVIDENCE_BYTES]


@pytest.mark.parametrize("size", [1, 1460])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_the_pool_alone_is_enough(hear: Hear, answer: bytes, size: int) -> None:
    """The agent's side was not seen or not understood."""
    (finding,) = hear(MiningStratum(), [(IN, answer)], size=size)
    assert "A mining pool at 203.0.113.9:443" in finding.summary


def test_picked_up_in_mid_message_and_many_in_one_segment(hear: Hear) -> None:
    says = b'00","5f"],"id":9}\n' + OPENINGS["cgminer"] + OPENINGS["xmrig"]
    assert len(hear(MiningStratum(), [(OUT, says)])) == 2


def test_the_segment_with_the_closing_brace_is_the_one(hear: Hear) -> None:
    opening = OPENINGS["xmrig"].rstrip()
    assert hear(MiningStratum(), [(OUT, opening[:-1])]) == []
    assert len(hear(MiningStratum(), [(OUT, opening[:-1]), (OUT, opening[-1:])])) == 1


# --- hints ------------------------------------------------------------------------------------------------


def test_a_hint_alone_is_nothing(hear: Hear) -> None:
    keepalive = b'{"id":5,"method":"keepalived","params":{"id":"u"}}\n'
    alive = b'{"id":5,"result":{"status":"KEEPALIVED"}}\n'
    for says in ([(OUT, WEAK_LOGIN)], [(OUT, WEAK_LOGIN)] * 3, [(OUT, keepalive)], [(IN, alive)]):
        assert hear(MiningStratum(), says) == []
    assert hear(MiningStratum(), [(OUT, WEAK_LOGIN), (IN, b'{"id":1,"result":{"status":"OK"}}\n')]) == []
    assert hear(MiningStratum(), [(OUT, WEAK_LOGIN), (OUT, alive)]) == []  # both from one side
    assert len(hear(MiningStratum(), [(OUT, keepalive), (IN, alive)])) == 1
    assert len(hear(MiningStratum(), [(IN, alive), (OUT, keepalive)])) == 1


def test_hints_of_two_flows_do_not_meet(hear: Hear, make_flow: MakeFlow) -> None:
    signature = MiningStratum()
    assert hear(signature, [(OUT, WEAK_LOGIN)], make_flow()) == []
    assert hear(signature, [(IN, b'{"id":5,"result":{"status":"KEEPALIVED"}}\n')], make_flow()) == []


@pytest.mark.parametrize(
    "line",
    [
        {"id": 1, "jsonrpc": "2.0", "method": "eth_getBlockByNumber", "params": ["0x1", True]},
        {"id": 1, "jsonrpc": "2.0", "method": "tools/call", "params": {"name": "x", "arguments": {}}},
        {"id": 1, "method": "blockchain.headers.subscribe", "params": []},
        {"id": 1, "method": "login", "params": {"user": "me", "password": "x"}},
        {"text": 'send {"id":1,"method":"mining.subscribe","params":[]} first'},
        {"text": '\n{"id":1,"method":"mining.subscribe","params":[]}\n'},
    ],
)
def test_other_json_is_nothing(hear: Hear, line: object) -> None:
    data = json.dumps(line).encode() + b"\n"
    assert hear(MiningStratum(), [(OUT, data), (IN, data)]) == []


# --- words ------------------------------------------------------------------------------------------------


def test_the_sentence(hear: Hear, make_flow: MakeFlow) -> None:
    (finding,) = hear(MiningStratum(), [(OUT, OPENINGS["xmrig"])])
    assert finding.summary == (
        "The agent logged in to a mining pool at 203.0.113.9:443 as 4A1bCA1bCA1b… (Cryptonote login, miner"
        " XMRig/6.21.0): it is using the sandbox's compute to mine cryptocurrency."
    )
    six = make_flow(remote=bytes.fromhex("20010db8" + "00" * 11 + "09"))
    (finding,) = hear(MiningStratum(), [(OUT, OPENINGS["zcash"])], six)
    assert finding.summary == (
        "The agent used a mining protocol with a mining pool at [2001:db8::9]:443 (Zcash Stratum mining.subscribe,"
        " miner EWBF, pool named zec.example:3333): it is using the sandbox's compute to mine cryptocurrency."
    )


def test_an_agent_that_plays_the_pool_is_told_apart(hear: Hear) -> None:
    for says in ([(IN, OPENINGS["xmrig"])], [(OUT, ANSWERS["monero"])]):
        (finding,) = hear(MiningStratum(), says)
        assert finding.summary.endswith("it is running a mining pool or proxy for others.")


def test_mining_inside_http_says_so(make_flow: MakeFlow) -> None:
    call = StratumCall("getwork", "getblocktemplate", "client", True)
    finding = MiningStratum().see(StratumSpoken(OUT, call, b"{}", "http"), make_flow())
    assert finding is not None and "(getwork getblocktemplate, inside HTTP)" in finding.summary


@given(st.text(max_size=600), st.text(max_size=300), st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_wire_cannot_write_the_sentence(make_flow: MakeFlow, worker: str, pool: str, agent: str) -> None:
    call = StratumCall("zcash", worker, "client", True, worker, pool, agent)
    finding = MiningStratum().see(StratumSpoken(OUT, call, b"x" * 9999, "tcp"), make_flow())
    assert finding is not None
    assert re.fullmatch(r"[ -~…]{1,400}", finding.summary)
    assert len(finding.evidence) <= EVIDENCE_BYTES


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"method":"mining.submit"', True),
        (b'{"method":"\\u006d\\u0069ning\\u002Esubmit"', True),
        (b'{"params":{"\\u006aob_id":"7"', True),
        (b'"eth_getWork"', True),
        (b'"eth_submit\\u0057ork"', True),
        (b'{"method":"eth_call"}', False),
        (b"mining.submit", False),
    ],
)
@pytest.mark.parametrize("size", [1, 1460])
def test_settled_flows_are_scanned_for_any_spelling(data: bytes, found: bool, size: int) -> None:
    scan = Patterns([MiningStratum()]).scan()
    assert scan is not None
    text, scanned = b"\0" * 5000 + data, 5000
    scan.follow(text[:scanned])
    segments = (
        decode(tcp(AGENT4, SERVER4, 1, 2, ACK, at, 1, text[at : at + size])) for at in range(scanned, len(text), size)
    )
    assert any(scan.hit(segment) for segment in segments) is found
