"""Mining messages by dialect and side, what they name, and the JSON-RPC that is not mining."""

from __future__ import annotations

import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire.jsonrpc import JsonStream
from egress.wire.stratum import KNOWN, StratumCall, classify

XMR = "4" + "A1bC" * 23 + "zZ"  # the shape of a Monero address
ETH = "0x" + "ab" * 20
BTC = "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"
JOB = {"blob": "0e" * 76, "job_id": "7", "target": "b88d0600", "height": 1, "algo": "rx/0"}
H1, H2, BOUNDARY = "0x" + "1f" * 32, "0x" + "2e" * 32, "0x00000000" + "ff" * 28


def call(method: str, params: object, **more: object) -> dict[str, object]:
    return {"id": 1, "method": method, "params": params} | more


# message, dialect, method, side, proof
MESSAGES: list[tuple[object, str, str, str, bool]] = [
    (call("mining.subscribe", ["cgminer/4.10"]), "stratum-v1", "mining.subscribe", "client", True),
    (call("mining.subscribe", []), "stratum-v1", "mining.subscribe", "client", True),
    ({"id": 1, "method": "mining.subscribe"}, "stratum-v1", "mining.subscribe", "client", True),
    (call("mining.configure", [["version-rolling"], {}]), "stratum-v1", "mining.configure", "client", True),
    (call("mining.authorize", [f"{BTC}.rig", "x"]), "stratum-v1", "mining.authorize", "client", True),
    (call("mining.submit", ["w", "j", "00", "5f", "b2"]), "stratum-v1", "mining.submit", "client", True),
    (call("mining.extranonce.subscribe", []), "stratum-v1", "mining.extranonce.subscribe", "client", True),
    (call("mining.ping", []), "stratum-v1", "mining.ping", "client", False),
    (call("mining.frobnicate", []), "stratum-v1", "mining.frobnicate", "client", False),
    (call("mining.notify", ["j", "00" * 32, "01", "02", [], "2", "1d", "5f", True], id=None),
     "stratum-v1", "mining.notify", "server", True),
    (call("mining.set_difficulty", [1024], id=None), "stratum-v1", "mining.set_difficulty", "server", True),
    (call("mining.set_extranonce", ["08", 4]), "stratum-v1", "mining.set_extranonce", "server", True),
    (call("client.reconnect", ["other.example", 3333, 0]), "stratum-v1", "client.reconnect", "server", False),
    ({"id": 1, "result": [[["mining.set_difficulty", "a"], ["mining.notify", "b"]], "0800", 8], "error": None},
     "stratum-v1", "mining.subscribe", "server", True),
    ({"id": 1, "result": [["mining.notify", "b"], "0800", 8]}, "stratum-v1", "mining.subscribe", "server", True),
    (call("mining.subscribe", ["m/1", "EthereumStratum/1.0.0"]),
     "ethereum-stratum", "mining.subscribe", "client", True),
    ({"id": 1, "result": [["mining.notify", "ae", "EthereumStratum/1.0.0"], "080c"], "error": None},
     "ethereum-stratum", "mining.subscribe", "server", True),
    (call("mining.hello", {"agent": "m", "host": "p.example", "port": "14d3", "proto": "EthereumStratum/2.0.0"}),
     "ethereum-stratum", "mining.hello", "client", True),
    (call("mining.subscribe", ["EWBF", None, "zec.example", "6666"]), "zcash", "mining.subscribe", "client", True),
    (call("mining.set_target", ["00ff" + "00" * 30], id=None), "zcash", "mining.set_target", "server", True),
    (call("mining.submit", ["w", "j", "5f", "00" * 28, "fd40" + "00" * 1344]),
     "zcash", "mining.submit", "client", True),
    (call("login", {"login": XMR, "pass": "x", "agent": "XMRig/6.21.0 (Linux x86_64)", "algo": ["rx/0"]}),
     "cryptonote", "login", "client", True),
    (call("login", {"login": XMR, "pass": "x"}), "cryptonote", "login", "client", True),
    (call("login", {"login": "me@example", "pass": "x", "algo": ["rx/0"]}), "cryptonote", "login", "client", True),
    (call("login", {"login": "me", "pass": "x"}), "cryptonote", "login", "client", False),
    (call("login", {"login": "alice", "pass": "secret", "agent": "myapp/1.0"}), "cryptonote", "login", "client", False),
    (call("login", {"login": "alice", "pass": "secret", "agent": "data-miner/2"}),
     "cryptonote", "login", "client", False),
    (call("login", {"login": "alice", "pass": "secret", "algo": "HS256"}), "cryptonote", "login", "client", False),
    (call("login", {"login": "rig7", "pass": "x", "agent": "SRBMiner-MULTI/2.4"}),
     "cryptonote", "login", "client", True),
    (call("login", {"login": "rig7", "pass": "x", "algo": ["x", "cn/r"]}), "cryptonote", "login", "client", True),
    ({"method": "login", "api_key": "12ab", "id": "login", "jsonrpc": "2.0"}, "beam", "login", "client", False),
    ({"method": "result", "id": "login", "code": 0, "nonceprefix": "ab01", "forkheight": 7},
     "beam", "result", "server", False),
    ({"method": "job", "id": "1", "input": "ab" * 32, "difficulty": 117440512, "height": 11},
     "beam", "job", "server", True),
    ({"method": "solution", "id": "1", "nonce": "fe7a1b2c3d4e5f60", "output": "0a" * 104},
     "beam", "solution", "client", True),
    (call("submit", {"id": "u", "job_id": "7", "nonce": "d00b0100", "result": "ab" * 32}),
     "cryptonote", "submit", "client", True),
    (call("submit", {"edge_bits": 29, "job_id": 4, "nonce": 123, "pow": [1, 2, 3]}),
     "cryptonote", "submit", "client", True),
    (call("keepalived", {"id": "u"}), "cryptonote", "keepalived", "client", False),
    (call("getjob", {"id": "u"}), "cryptonote", "getjob", "client", False),
    ({"id": 1, "jsonrpc": "2.0", "result": {"id": "u", "job": JOB, "status": "OK"}},
     "cryptonote", "job", "server", True),
    ({"jsonrpc": "2.0", "method": "job", "params": JOB}, "cryptonote", "job", "server", True),
    ({"id": 1, "result": JOB}, "cryptonote", "job", "server", True),
    ({"id": 1, "result": {"status": "KEEPALIVED"}}, "cryptonote", "keepalived", "server", False),
    ({"id": "x", "method": "job", "params": {"difficulty": 1, "height": 2, "job_id": 3, "pre_pow": "00" * 100}},
     "cryptonote", "job", "server", True),
    ({"type": "auth", "params": {"site_key": "K", "type": "anonymous"}}, "cryptonote", "auth", "client", True),
    ({"type": "job", "params": JOB}, "cryptonote", "job", "server", True),
    ({"type": "submit", "params": {"job_id": "7", "nonce": "00", "result": "ab" * 32}},
     "cryptonote", "submit", "client", True),
    ({"worker": "eth1.0", "jsonrpc": "2.0", "params": [f"{ETH}.rig", "x"], "id": 2, "method": "eth_submitLogin"},
     "ethproxy", "eth_submitLogin", "client", True),
    ({"worker": "", "jsonrpc": "2.0", "params": [], "id": 3, "method": "eth_getWork"},
     "ethproxy", "eth_getWork", "client", True),
    (call("eth_submitWork", ["0x1122334455667788", H1, H2]), "ethproxy", "eth_submitWork", "client", True),
    (call("eth_submitHashrate", ["0x500000", H1]), "ethproxy", "eth_submitHashrate", "client", True),
    (call("eth_subscribe", ["newWork", "user", "x", "miner/1"]), "ethproxy", "eth_subscribe", "client", True),
    ({"id": 0, "jsonrpc": "2.0", "result": [H1, H2, BOUNDARY]}, "ethproxy", "work", "server", True),
    ({"id": 0, "result": [H1, H2, BOUNDARY, "0x10"]}, "ethproxy", "work", "server", True),
    ({"id": 0, "result": [H1, H2, H1]}, "ethproxy", "work", "server", False),
    (call("getblocktemplate", [{"capabilities": ["coinbasetxn"]}]), "getwork", "getblocktemplate", "client", True),
    ({"id": 0, "jsonrpc": "2.0", "method": "getblocktemplate", "params": {"wallet_address": XMR, "reserve_size": 8}},
     "getwork", "getblocktemplate", "client", True),
    (call("getwork", []), "getwork", "getwork", "client", True),
    (call("getwork", ["00" * 128]), "getwork", "getwork", "client", True),
    (call("getwork", {"queue": "mail"}), "getwork", "getwork", "client", False),
    ({"id": 0, "result": {"data": "00" * 128, "target": "ff" * 32, "midstate": "00" * 32}},
     "getwork", "getwork", "server", True),
    ({"id": 0, "result": {"blocktemplate_blob": "0e" * 90, "difficulty": 5}},
     "getwork", "getblocktemplate", "server", True),
]  # fmt: skip


@pytest.mark.parametrize(("message", "dialect", "method", "side", "proof"), MESSAGES)
def test_dialects(message: object, dialect: str, method: str, side: str, proof: bool) -> None:
    found = classify(message)
    assert found is not None
    assert found[:4] == (dialect, method, side, proof)


@pytest.mark.parametrize(("message", "dialect", "method", "side", "proof"), MESSAGES)
def test_key_order_spacing_and_escapes_do_not_matter(
    message: object, dialect: str, method: str, side: str, proof: bool
) -> None:
    for wire in spellings(message):
        texts = JsonStream().feed(wire.encode())
        assert [classify(text.value) for text in texts] == [classify(message)]


def spellings(message: object) -> list[str]:
    assert isinstance(message, dict)
    backwards = dict(reversed(list(message.items())))
    compact = json.dumps(message, separators=(",", ":"))
    escaped = "".join(f"\\u{ord(char):04x}" if char in string.ascii_lowercase else char for char in '"method"')
    spaced = json.dumps(message, separators=(" ,\t", "  : "))
    return [json.dumps(backwards), compact, spaced, compact.replace('"method"', escaped)]


@pytest.mark.parametrize(
    ("message", "worker", "pool", "agent"),
    [
        (call("login", {"login": XMR, "pass": "x", "agent": "XMRig/6.21.0"}), XMR, "", "XMRig/6.21.0"),
        (call("mining.authorize", ["user.rig", "x"]), "user.rig", "", ""),
        (call("mining.subscribe", ["EWBF", None, "zec.example", 6666]), "", "zec.example:6666", "EWBF"),
        (call("mining.subscribe", ["a", None, "host-only.example"]), "", "host-only.example", "a"),
        (call("eth_submitLogin", [ETH, "x"]), ETH, "", ""),
        (call("eth_subscribe", ["newWork", "user", "x", "miner/1"]), "user", "", "miner/1"),
        (call("client.reconnect", ["other.example", 3333, 0]), "", "other.example:3333", ""),
    ],
)
def test_what_a_message_names(message: object, worker: str, pool: str, agent: str) -> None:
    found = classify(message)
    assert found is not None and (found.worker, found.pool, found.agent) == (worker, pool, agent)


@pytest.mark.parametrize(
    "message",
    [
        call("eth_call", [{"to": ETH, "data": "0x"}, "latest"]),
        call("eth_blockNumber", []),
        call("eth_getBlockByNumber", ["0x1b4", True]),
        call("eth_subscribe", ["newHeads"]),
        call("eth_getStorageAt", [ETH, "0x0", "latest"]),
        call("eth_getFilterChanges", ["0x16"]),
        {"jsonrpc": "2.0", "id": 1, "result": [H1, H2]},
        {"jsonrpc": "2.0", "id": 1, "result": H1},
        {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"subscription": "0x1", "result": {"hash": H1}}},
        call("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c"}}),
        call("tools/call", {"name": "search", "arguments": {"q": "mining.subscribe"}}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        call("initialize", {"processId": 1, "rootUri": "file:///", "capabilities": {}}),
        call("textDocument/didOpen", {"textDocument": {"text": '{"method":"mining.subscribe","params":[]}'}}),
        call("server.version", ["electrum/4.5", "1.4"]),
        call("blockchain.scripthash.subscribe", ["00" * 32]),
        call("blockchain.headers.subscribe", []),
        {"id": 1, "result": ["ElectrumX 1.16", "1.4"]},
        call("login", {"username": "me", "password": "x"}),
        call("login", {"login": "me"}),
        call("login", ["me", "x"]),
        call("submit", {"form": 1, "job_id": "7"}),
        call("submit", {"job_id": "7", "nonce": "00", "result": "done"}),
        call("job", {"job_id": "7", "target": "linux"}),
        {"id": 1, "result": {"status": "OK"}},
        {"id": 1, "result": {"job": {"job_id": 7, "blob": "hello", "target": "prod"}}},
        {"type": "submit", "params": {"job_id": "7"}},
        {"type": "auth", "token": "x"},
        {"role": "user", "content": '{"id":1,"method":"mining.subscribe","params":[]}'},
        {"doc": {"method": "mining.subscribe", "params": []}},
        {"level": "info", "method": "mining.subscribe", "msg": "a log line"},  # neither id nor params
        call("mining.subscribe", "text"),
        call("getmininginfo", []),
        {"id": 0, "result": [H1, H2, 7]},
        [], {}, [[call("mining.subscribe", [])]], None, 1, "mining.subscribe", ["mining.notify", "a"], float("nan"),
    ],
)  # fmt: skip
def test_not_mining(message: object) -> None:
    assert classify(message) is None


def test_small_numbers_in_32_bytes_prove_no_work() -> None:
    found = classify({"id": 0, "result": [H1, H2, "0x" + "00" * 31 + "07"]})
    assert found is not None and not found.proof


def test_of_a_batch_the_first_proof_counts_then_the_first_hint() -> None:
    hint, proof = call("mining.ping", []), call("mining.authorize", ["w", "x"])
    batch = classify([call("eth_call", []), hint, proof])
    assert batch is not None and batch.method == "mining.authorize"
    only = classify([{}, hint, 5])
    assert only is not None and only.method == "mining.ping"


@pytest.mark.parametrize(
    "wire",
    [
        b'{"id":1,"method":"eth_call","method":"mining.subscribe","method":"x","params":[]}',
        b'{"id":1,"METHOD":"Mining.Subscribe","Params":[]}',
        b'{"method":"login","params":[],"params":{"login":"w","pass":"x","agent":"xmrig"},"params":1}',
        b'{"method":"login","params":{"LOGIN":"w","pass":"x","Agent":"cpuminer/2","agent":""}}',
        b'{"method":"mining.subscribe","params":[],}',
        b'{"method":"login","params":{"login":"w","pass":"x","agent":"XMRig/6"},"pad":[' + b"1," * 50_000 + b"1]}",
    ],
)
def test_evasions_that_parse_somewhere(wire: bytes) -> None:
    found = [classify(text.value) for text in JsonStream().feed(wire)]
    assert any(call is not None and call.proof for call in found)


def test_many_repeated_keys_cost_little() -> None:
    """1500 methods and params would be two million pairs (seconds); known methods and few params are looked at."""
    members = ",".join(f'"method":"mining.x{i}","params":{{}}' for i in range(1500))
    value = JsonStream().feed(f'{{{members},"method":"login","id":1}}'.encode())[0].value
    began = time.process_time()
    assert classify(value) is None
    assert time.process_time() - began < 0.5


KEYS = st.sampled_from(
    ["id", "method", "params", "result", "type", "job", "blob", "job_id", "target", "nonce", "pow", "login", "pass"]
) | st.sampled_from(["agent", "algo", "status", "data", "host", "port", "site_key", "pre_pow", "error"])
LEAVES = st.sampled_from([*sorted(KNOWN), XMR, ETH, H1, BOUNDARY, "ab" * 40, "", "x", None, True, 0, -1.5, 10**40])
JUNK = st.recursive(
    LEAVES | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(JUNK)
def test_any_value_is_a_call_or_none(value: object) -> None:
    found = classify(value)
    if found is not None:
        assert isinstance(found, StratumCall) and found.side in ("client", "server") and found.dialect
        assert all(isinstance(text, str) for text in (found.method, found.worker, found.pool, found.agent))
        again = [classify(text.value) for text in JsonStream().feed(json.dumps(value).encode())]
        assert again == [found]
