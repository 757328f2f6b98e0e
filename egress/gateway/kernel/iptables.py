"""Install, inspect and remove our chains, with `iptables-restore --noflush` and its IPv6 twin.

`egress.gateway.kernel.chains` has the rules and the path of a packet through them. Each table of a family is committed
atomically. The input names only our chains and the jumps to them, so the rules and counters of other programs stay as
they are. Installing twice equals installing once; it restarts our own counters.

Removal leaves other programs' rules as they were. Where a table did not exist before, iptables-nft keeps it, empty,
with its built-in chains (policy ACCEPT): `iptables-save` shows it, and it changes nothing for any packet.

Rules that other programs insert later may come before ours (Docker does that at its start). Ours are then not
`installed()`: call `install` again. Until then mangle POSTROUTING still stops packets refused in FORWARD or OUTPUT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel.chains import CHAINS, FILTER, MANGLE, NAT, Attachment, Rules, jumps, rules
from egress.gateway.kernel.command import run

__all__ = ["Attachment", "block", "counters", "install", "installed", "queues", "remove"]

_TOOLS = {4: "iptables", 6: "ip6tables"}
_ATTEMPTS = 3  # another program may change the rules between our reading and our writing
_OURS = frozenset(name for names in CHAINS.values() for name in names)
_JUMP = re.compile(r"-A (?P<chain>\S+) (?P<rule>.*-[jg] (?P<target>\S+))$")
_MODULE = re.compile(r"Extension (\w+) .*missing kernel module|Couldn't load (?:match|target) `(\w+)'")
_SHAPE = re.compile(r"(?<= )(?:-[io] \S+|-j \S+|--queue-num \d+)")  # every iptables prints these alike
_QUEUE = re.compile(r"-A EGRESS-\S+ .*-j NFQUEUE --queue-num (\d+)")
_COUNTED = re.compile(r"\[(?P<packets>\d+):\d+\] -A (?P<chain>\S+) .*-j (?P<target>\S+)")
_COUNTERS = {
    ("EGRESS-INPUT", "MARK"): "api",
    ("EGRESS-OUT", "CONNMARK"): "unqueued",
    ("EGRESS-IN", "CONNMARK"): "unqueued",
    ("EGRESS-REFUSE", "REJECT"): "rejected",
    ("EGRESS-REFUSE", "DROP"): "dropped",
    ("EGRESS-POSTROUTING", "DROP"): "late",
}


def install(attachments: Sequence[Attachment], config: Config) -> None:
    """Queue the packets of the attachments' interfaces. Replaces the rules of an earlier call.

    Refusal goes in first and queueing last. Raises EgressError; tables that were written before stay: call again, or
    call `remove`.
    """
    for family in families():
        _apply(family, rules(attachments, config, family), config)


def block(attachments: Sequence[Attachment], config: Config) -> None:
    """Refuse all packets of the attachments' interfaces in the kernel, without a worker."""
    for family in families():
        _apply(family, rules(attachments, config, family, blocking=True), config)


def remove(config: Config) -> None:
    """Remove our chains and the jumps to them, if there are any."""
    for family in families():
        _apply(family, {}, config)


def installed(config: Config, attachments: Sequence[Attachment] | None = None) -> bool:
    """Check that queueing and refusal are in place in both families, each jump once and first in its chain.

    With `attachments` the content of our chains is checked, too: each rule that `install` would put there must be there
    and lead to the same target. Another program may have emptied a chain and left the jump to it.
    """
    for family in families():
        state = _state(family)
        wanted = {} if attachments is None else rules(attachments, config, family)
        if not _in_place(state, config) or any(_differs(state, table, lines) for table, lines in wanted.items()):
            return False
    return True


def queues() -> set[int]:
    """Read the numbers of the queues that our chains lead to now."""
    lines = (line for family in families() for line in _state(family).get(MANGLE, []))
    return {int(match[1]) for line in lines if (match := _QUEUE.match(line))}


def counters() -> dict[str, int]:
    """Count refused packets since the last `install`, both families together.

    `rejected`: answered with a reset or ICMP; `dropped`: refused in silence; `unqueued`: of those, refused by the mark
    of their connection without reaching a worker; `api`: of those, sent to the API; `late`: refused, then accepted by
    another program's filter rule, and stopped in POSTROUTING.
    """
    found = dict.fromkeys(_COUNTERS.values(), 0)
    for family in families():
        for line in run(f"{_TOOLS[family]}-save", "-c").splitlines():
            if (match := _COUNTED.match(line)) and (name := _COUNTERS.get((match["chain"], match["target"]))):
                found[name] += int(match["packets"])
    return found


def families() -> tuple[int, ...]:
    """Return the IP versions of this kernel: 4, and 6 unless it runs without IPv6."""
    return (4, 6) if Path("/proc/sys/net/ipv6").exists() else (4,)


def _apply(family: int, wanted: Rules, config: Config) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        text = change(_state(family), wanted, config)
        if not text:
            return
        try:
            run(f"{_TOOLS[family]}-restore", "--noflush", "-w", stdin=text)
            return
        except EgressError as error:
            if attempt == _ATTEMPTS:
                raise EgressError(explain(str(error))) from None


def _state(family: int) -> dict[str, list[str]]:
    """Read the rules now: table → its lines of iptables-save, `:CHAIN …` and `-A CHAIN …`."""
    tables: dict[str, list[str]] = {}
    for line in run(f"{_TOOLS[family]}-save").splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line[1:], [])
        elif line.startswith((":", "-A ")):
            lines.append(line)
    return tables


def change(state: dict[str, list[str]], wanted: Rules, config: Config) -> str:
    """Make the input of iptables-restore --noflush that turns `state` into `wanted`; empty where they are equal.

    Wanted tables go in with refusal first and queueing last; the other tables go out in the opposite order.
    """
    added = [_put(state, table, wanted[table], config) for table in (FILTER, NAT, MANGLE) if table in wanted]
    return "".join(added + [_drop(state, table) for table in (MANGLE, NAT, FILTER) if table not in wanted])


def _put(state: dict[str, list[str]], table: str, lines: list[str], config: Config) -> str:
    """Make the input that fills our chains of a table, and puts the jumps to them first.

    Declaring a chain empties it under --noflush, so our rules are replaced in the same commit.
    """
    heads = [f":{chain} - [0:0]" for chain in CHAINS[table]]
    placed = []
    for chain, rule in jumps(table, config).items():
        if not _first_and_only(state.get(table, []), chain, rule):
            placed += [line for line in _deletions(state, table) if line.startswith(f"-D {chain} ")]
            placed.append(f"-I {chain} 1 {rule}")
    return "\n".join([f"*{table}", *heads, *lines, *placed, "COMMIT", ""])


def _drop(state: dict[str, list[str]], table: str) -> str:
    present = [chain for chain in CHAINS[table] if any(line.startswith(f":{chain} ") for line in state.get(table, []))]
    if not present:
        return ""
    flushed = [f"-F {chain}" for chain in present] + [f"-X {chain}" for chain in present]
    return "\n".join([f"*{table}", *_deletions(state, table), *flushed, "COMMIT", ""])


def _deletions(state: dict[str, list[str]], table: str) -> list[str]:
    """Make the lines that delete each rule outside our chains that leads into them."""
    jumping = [match for line in state.get(table, []) if (match := _JUMP.match(line))]
    return [f"-D {m['chain']} {m['rule']}" for m in jumping if m["target"] in _OURS and m["chain"] not in _OURS]


def _first_and_only(lines: list[str], chain: str, rule: str) -> bool:
    there = [line for line in lines if line.startswith(f"-A {chain} ")]
    return bool(there) and there[0] == f"-A {chain} {rule}" and there.count(there[0]) == 1


def _in_place(state: dict[str, list[str]], config: Config) -> bool:
    tables = [FILTER, MANGLE] + ([NAT] if any(line.startswith(":EGRESS-NAT ") for line in state.get(NAT, [])) else [])
    return all(
        _first_and_only(state.get(table, []), chain, rule)
        for table in tables
        for chain, rule in jumps(table, config).items()
    )


def _differs(state: dict[str, list[str]], table: str, wanted: list[str]) -> bool:
    """Check whether one of our chains has other rules than `wanted`, or has them in another order.

    Only interfaces, target and queue number of a rule are compared: versions of iptables print the rest differently.
    """
    return any(_shape(state.get(table, []), chain) != _shape(wanted, chain) for chain in CHAINS[table])


def _shape(lines: list[str], chain: str) -> list[list[str]]:
    return [_SHAPE.findall(line) for line in lines if line.startswith(f"-A {chain} ")]


def explain(complaint: str) -> str:
    """Explain an error of iptables in one line: by the missing kernel module or permission, where it shows one."""
    if match := _MODULE.search(complaint):
        name = match[1] or match[2]
        return f"the kernel has no netfilter extension {name}: `modprobe xt_{name}`, or install its extra modules"
    if "Permission denied" in complaint or "you must be root" in complaint:
        return "changing the kernel's rules is not permitted: start egress as root (CAP_NET_ADMIN)"
    if "No such file or directory" in complaint or "No chain/target/match" in complaint:
        needed = "nft_compat xt_NFQUEUE xt_connmark xt_conntrack xt_mark xt_hl ipt_REJECT ip6t_REJECT xt_MASQUERADE"
        return f"the kernel lacks something our rules need: run `modprobe -a {needed}` ({complaint[:160]})"
    return complaint
