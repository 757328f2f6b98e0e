"""Mining protocols over JSON: the dialect and the side of a message, and whether it proves mining by itself.

Parsed values are classified by structure, never by text: a message that quotes Stratum inside a string does not count.
A repeated key counts with each of its values, because parsers take different ones. Keys and method names compare
without case. The dialects, and their sources:

- stratum-v1: mining.* of cgminer and slush0's stratum, BIP 310; KawPow and other coins use the same verbs
- ethereum-stratum: EthereumStratum/1.0.0 (NiceHash) and 2.0.0 (EIP-1571)
- zcash: ZIP-301, mining.subscribe with host and port, mining.set_target
- cryptonote: login, job, submit, keepalived of Monero pools (xmrig's doc/STRATUM.md); Grin; Coinhive's type/params form
- beam: login with api_key, job with input, solution, result, all without params (Beam's stratum protocol)
- ethproxy: eth_submitLogin, eth_getWork, eth_submitWork, eth_submitHashrate; eth_subscribe newWork
- getwork: getwork, getblocktemplate (BIP 22) and submitblock of Bitcoin and Monero nodes, usually over HTTP

Electrum (server.version, blockchain.*), Ethereum node calls, LSP and MCP use the same envelope and are not mining.
Not read: Stratum V2 (binary), Duino-Coin (comma-separated text).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from egress.wire.jsonrpc import every

CLIENT, SERVER = "client", "server"
MAX_BATCH = 1024  # members of a batch looked at; a miner's batch holds a handful
MAX_VALUES = 8  # of a repeated key, the first and the last so many values are looked at

CLIENT_VERBS = frozenset(
    {"subscribe", "authorize", "submit", "configure", "extranonce.subscribe", "hello"}
    | {"suggest_difficulty", "suggest_target", "multi_version", "get_transactions"}
)
SERVER_VERBS = frozenset(("notify", "set_difficulty", "set_target", "set_extranonce", "set_version_mask", "set"))
EITHER_VERBS = frozenset(("noop", "bye", "ping", "pong"))
POOL_REQUESTS = frozenset(("client.reconnect", "client.get_version", "client.show_message"))  # generic names: weak
TEMPLATE_METHODS = frozenset(("getblocktemplate", "submitblock", "get_block_template", "submit_block"))
ETH_METHODS = {
    "eth_submitlogin": "eth_submitLogin",
    "eth_getwork": "eth_getWork",
    "eth_submitwork": "eth_submitWork",
    "eth_submithashrate": "eth_submitHashrate",
}
WEAK_METHODS = frozenset(("getjob", "getjobtemplate", "keepalived"))
KNOWN = frozenset(
    {f"mining.{verb}" for verb in CLIENT_VERBS | SERVER_VERBS | EITHER_VERBS}.union(
        POOL_REQUESTS,
        TEMPLATE_METHODS,
        ETH_METHODS,
        WEAK_METHODS,
        ("login", "submit", "job", "getwork", "eth_subscribe", "solution", "result"),
    )
)

_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+\Z")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}\Z")
# Monero-like (90 and more base58 characters), Ethereum, bech32 and CashAddr-like, legacy base58 of Bitcoin and kin.
_WALLET = re.compile(
    r"(?:[1-9A-HJ-NP-Za-km-z]{90,200}|0x[0-9a-fA-F]{40}|[a-z]{2,12}1[02-9ac-hj-np-z]{38,90}"
    r"|[a-z]{4,12}:[0-9a-z]{40,90}|[13LMDtRXA][1-9A-HJ-NP-Za-km-z]{25,34})(?:[.+/:@].*)?\Z",
    re.DOTALL,
)
_TEMPLATES = (("blocktemplate_blob", "difficulty"), ("previousblockhash", "target", "curtime"))  # Monero, BIP 22
_BLOB_DIGITS = 64  # a hashing blob or block header has at least 32 bytes
# Every pool's Ethereum boundary is 2**256 / difficulty with a difficulty far above 2**20 and, so far, below 2**96; of
# random hashes one in a million looks so, and small numbers in 32 bytes do not.
_BOUNDARY = re.compile(r"0x0{5,24}[1-9a-fA-F]")


# Miners as they name themselves, and algorithms of Cryptonote's and related pools; any program may log in otherwise.
_MINER = re.compile(
    r"(?i:xmrig|xmr-?stak|cast[-_]xmr|srbminer|lolminer|gminer|bminer|nbminer|nanominer|teamredminer|wildrig|t-rex|trex"
    r"|bzminer|rigel|onezerominer|[a-z-]*(?:cpu|gpu|cuda|cc|sg|cg|bfg|xm|multi|grin|mwc|gin)[-_]?miner|grinpro)"
    r"(?:$|[^a-z])",
)
_ALGORITHM = re.compile(
    r"(?i:(?:rx|cn|argon2|cryptonight|randomx)(?:[-_/].*)?|(?:ghostrider|kawpow|astrobwt|panthera|cuckaroo|cuckatoo).*)\Z"
)


class StratumCall(NamedTuple):
    """One mining message.

    `proof`: True if it proves mining by itself; False if it does so only together with a message of the other side.
    """

    dialect: str  # stratum-v1, cryptonote, beam, ethproxy, ethereum-stratum, zcash, getwork
    method: str  # as the dialect spells it; of an answer: its content, e.g. "job"
    side: str  # the side that sends such a message: "client" (the miner) or "server" (the pool)
    proof: bool
    worker: str = ""  # login, wallet or user it names
    pool: str = ""  # host or host:port it names
    agent: str = ""  # miner software it names


def classify(value: object) -> StratumCall | None:
    """Return the mining message in a parsed JSON value; None if there is none.

    Of a batch (array) it is the first message that proves mining, or else the first mining message.
    """
    hint = None
    for message in value[:MAX_BATCH] if isinstance(value, list) else [value]:
        for call in _calls(message):
            if call.proof:
                return call
            hint = hint or call
    return hint


def _calls(message: object) -> Iterator[StratumCall]:
    """Yield the mining messages in one parsed message: by its method, its params and its result."""
    names = _methods(message)
    types = [name for name in every(message, "type") if name in ("auth", "job", "submit")]
    params = _ends(every(message, "params"))
    for name in names:
        if not params and (every(message, "id") or name in TEMPLATE_METHODS):
            yield from _request(name, None)
        for item in params:
            yield from _request(name, item)
    if not params and names:
        yield from _beam(names, message)
    for item in params:
        yield from _work(item)
        if types:
            yield from _share(item)
            if "auth" in types and _text(item, "site_key"):
                yield StratumCall("cryptonote", "auth", CLIENT, True, _text(item, "site_key"))
    for result in _ends(every(message, "result")):
        yield from _answer(result)


def _methods(message: object) -> list[str]:
    """Return the known names among all `method` members, each once; or one unknown name of the mining family."""
    names = dict.fromkeys(name.strip().casefold() for name in every(message, "method") if isinstance(name, str))
    known = [name for name in names if name in KNOWN]
    return known or [name for name in names if name.startswith("mining.")][:1]


def _request(name: str, params: object) -> Iterator[StratumCall]:
    """Classify a call or notification named `name` (case-folded)."""
    if params is not None and not isinstance(params, (list, dict)):
        return
    if name.startswith("mining."):
        yield from _mining(name, params)
    elif name in ETH_METHODS:
        worker = _item(params, 0) if name == "eth_submitlogin" else ""
        yield StratumCall("ethproxy", ETH_METHODS[name], CLIENT, True, worker)
    elif name == "eth_subscribe" and _item(params, 0) == "newWork":
        yield StratumCall("ethproxy", "eth_subscribe", CLIENT, True, _item(params, 1), "", _item(params, 3))
    elif name == "login":
        yield from _login(params)
    elif name in ("submit", "job"):
        yield from _share(params)
    elif name in WEAK_METHODS:
        yield StratumCall("cryptonote", name, CLIENT, False)
    elif name in TEMPLATE_METHODS or name == "getwork":
        # getwork asks without a parameter and submits one block header of 128 bytes; other calls may have the same name
        plain = params == [] or _is_hex(_item(params, 0), 256)
        yield StratumCall("getwork", name, CLIENT, name != "getwork" or plain)
    elif name in POOL_REQUESTS:
        pool = _endpoint(_item(params, 0), _item(params, 1)) if name == "client.reconnect" else ""
        yield StratumCall("stratum-v1", name, SERVER, False, "", pool)


def _mining(name: str, params: object) -> Iterator[StratumCall]:
    """Classify a mining.* method, with the worker, pool and miner that it names."""
    verb = name.removeprefix("mining.")
    side = SERVER if verb in SERVER_VERBS else CLIENT
    proof = verb in CLIENT_VERBS or verb in SERVER_VERBS
    dialect, worker, pool, agent = "stratum-v1", "", "", ""
    if verb == "subscribe":
        agent = _item(params, 0)
        pool = _endpoint(_item(params, 2), _item(params, 3))
        if any(_item(params, i).startswith("EthereumStratum/") for i in range(4)):
            dialect = "ethereum-stratum"
        elif pool:
            dialect = "zcash"
    elif verb in ("authorize", "submit"):
        worker = _item(params, 0)
        if verb == "submit" and len(_item(params, 4)) > 128:  # an Equihash solution
            dialect = "zcash"
    elif verb in ("hello", "set", "noop", "bye"):
        dialect = "ethereum-stratum"
        agent, pool = _text(params, "agent"), _endpoint(_text(params, "host"), _text(params, "port"))
    elif verb == "set_target":
        dialect = "zcash"
    yield StratumCall(dialect, name, side, proof, worker, pool, agent)
    if verb in EITHER_VERBS:
        yield StratumCall(dialect, name, SERVER, False)


def _login(params: object) -> Iterator[StratumCall]:
    """Classify a Cryptonote login. Its name is generic: a wallet, a miner or its algorithms prove mining."""
    login, password = _text(params, "login"), every(params, "pass")
    agent = _text(params, "agent")
    rig = bool(every(params, "rigid")) or any(map(_mines, every(params, "algo")))
    mines = rig or _MINER.match(agent) is not None
    if login and _WALLET.match(login) and (password or mines or agent):
        yield StratumCall("cryptonote", "login", CLIENT, True, login, "", agent)
    elif every(params, "login") and (password or mines or agent):
        yield StratumCall("cryptonote", "login", CLIENT, bool(password) and mines, login, "", agent)


def _mines(algorithms: object) -> bool:
    """Return True if a login's algorithms are a miner's: one such name, or a list with one among its first."""
    listed = algorithms[:MAX_VALUES] if isinstance(algorithms, list) else [algorithms]
    return any(isinstance(name, str) and _ALGORITHM.match(name) is not None for name in listed)


def _beam(names: list[str], message: object) -> Iterator[StratumCall]:
    """Classify Beam's messages, whose members stand beside the method. A login proves nothing: its name is generic."""
    if "login" in names and _text(message, "api_key"):
        yield StratumCall("beam", "login", CLIENT, False, _text(message, "api_key"))
    if "job" in names and _is_hex(_text(message, "input"), _BLOB_DIGITS) and every(message, "difficulty"):
        yield StratumCall("beam", "job", SERVER, True)
    if "solution" in names and _is_hex(_text(message, "nonce"), 8) and _is_hex(_text(message, "output"), _BLOB_DIGITS):
        yield StratumCall("beam", "solution", CLIENT, True, _text(message, "id"))
    if "result" in names and (every(message, "nonceprefix") or every(message, "forkheight")):
        yield StratumCall("beam", "result", SERVER, False)


def _share(params: object) -> Iterator[StratumCall]:
    """Classify a share that was found: Cryptonote {job_id, nonce, result}, Grin {job_id, nonce, pow}."""
    if not (every(params, "job_id") and every(params, "nonce")):
        return
    if _is_hex(_text(params, "result"), 32) or any(isinstance(pow_, list) for pow_ in every(params, "pow")):
        yield StratumCall("cryptonote", "submit", CLIENT, True, _text(params, "id"))


def _work(item: object) -> Iterator[StratumCall]:
    """Classify work that a pool hands out, in a notification's params or an answer's result."""
    if isinstance(item, list):
        if 3 <= len(item) <= 6 and all(isinstance(part, str) and _HASH.match(part) for part in item[:3]):
            yield StratumCall("ethproxy", "work", SERVER, _BOUNDARY.match(str(item[2])) is not None)
        return
    blob = _is_hex(_text(item, "blob"), _BLOB_DIGITS) and _is_hex(_text(item, "target"), 1)
    grin = _is_hex(_text(item, "pre_pow"), _BLOB_DIGITS)
    if (blob or grin) and every(item, "job_id"):
        yield StratumCall("cryptonote", "job", SERVER, True)


def _answer(result: object) -> Iterator[StratumCall]:
    """Classify the result of an answer, which a pool sends."""
    yield from _work(result)
    for job in _ends(every(result, "job")):
        yield from _work(job)
    if isinstance(result, list):
        yield from _subscription(result)
    elif _text(result, "status").casefold() == "keepalived":
        yield StratumCall("cryptonote", "keepalived", SERVER, False)
    elif any(all(every(result, key) for key in keys) for keys in _TEMPLATES):
        yield StratumCall("getwork", "getblocktemplate", SERVER, True)
    elif _is_hex(_text(result, "data"), 256) and _is_hex(_text(result, "target"), 64):
        yield StratumCall("getwork", "getwork", SERVER, True)


def _subscription(result: list[object]) -> Iterator[StratumCall]:
    """Classify an answer to mining.subscribe, such as [[["mining.notify", id], …], extranonce1, size]."""
    lists = [part for part in result[:4] if isinstance(part, list)]
    lists += [inner for part in lists for inner in part[:4] if isinstance(inner, list)]
    for part in lists:
        if _item(part, 0) in ("mining.notify", "mining.set_difficulty", "mining.set_target"):
            ether = any(_item(part, i).startswith("EthereumStratum/") for i in range(4))
            dialect = "ethereum-stratum" if ether else "stratum-v1"
            yield StratumCall(dialect, "mining.subscribe", SERVER, True)


def _ends(values: list[object]) -> list[object]:
    return values if len(values) <= 2 * MAX_VALUES else values[:MAX_VALUES] + values[-MAX_VALUES:]


def _text(value: object, key: str) -> str:
    """Return the last non-empty string under `key` of an object."""
    return next((item for item in reversed(every(value, key)) if isinstance(item, str) and item), "")


def _item(value: object, index: int) -> str:
    """Return element `index` of a list as text; "" if it is missing or neither a string nor a number."""
    if not isinstance(value, list) or index >= len(value):
        return ""
    item = value[index]
    return str(item) if isinstance(item, (str, int)) and not isinstance(item, bool) else ""


def _endpoint(host: str, port: str) -> str:
    return f"{host}:{port}" if host and port else host


def _is_hex(text: str, digits: int) -> bool:
    return len(text) >= digits and _HEX.match(text) is not None
