"""Checks of a running gateway for `egress doctor`, made from its status: workers, queues, attribution, kernel rules."""

from __future__ import annotations

from typing import Any

from egress.cli.output.counted import explained
from egress.errors import EgressError
from egress.gateway.kernel.command import run
from egress.gateway.supervisor.checks import Check


def attribution(status: dict[str, Any]) -> list[Check]:
    """Check that the attribution process, which looks up the processes behind flows, runs and writes its journal."""
    said = status["attribution"]
    if not said["enabled"]:
        return [Check("attribution", True, "disabled: no flow's process is looked up")]
    if said["pid"] is None:
        return [Check("attribution", False, f"not running after {said['restarts']} restarts: see the gateway's log")]
    counters = said["counters"]
    dropped = sum(worker["counters"].get("attribution", {}).get("dropped", 0) for worker in status["workers"])
    counts = ", ".join(f"{counters.get(what, 0)} {what}" for what in ("found", "gone", "unknown"))
    spent = f" within {counters['median']} ms" if counters.get("median") is not None else ""
    found = [Check("attribution", True, f"pid {said['pid']}, processes {counts}{spent}, {dropped} flows not looked up")]
    if not counters.get("confined", True):
        found.append(_unfiltered("attribution"))
    if counters.get("unwritten"):
        text = f"{counters['unwritten']} processes not written while the journal was full"
        found.append(Check("attribution journal", False, text))
    if not counters.get("journal", {}).get("healthy", True):
        found.append(Check("attribution journal", False, f"cannot be written ({counters['journal']['error']})"))
    return found


def _unfiltered(name: str) -> Check:
    """Make the failed check of a process that runs without a system call filter (seccomp)."""
    return Check(f"{name} seccomp", False, "no system call filter: use a kernel with CONFIG_SECCOMP_FILTER")


def folded(workers: list[dict[str, Any]]) -> list[Check]:
    """Return a passed check that names the agents over their quota of records; no check if there are none.

    The gateway guards these agents as before. It only counts some of their records together.
    """
    over = {name: count for worker in workers for name, count in worker["counters"].get("folded", {}).items()}
    if not over:
        return []
    text = ", ".join(f"{name or 'no agent'} {count}" for name, count in sorted(over.items()))
    hint = "flows and refusals without records of their own, counted together; look at what these agents do"
    return [Check("record quota", True, f"{text} {hint}, or raise limits.records_agent")]


def worker(worker: dict[str, Any], on_full: str) -> list[Check]:
    """Check that a worker runs, reads its queues, writes its journal, answers refused queries, and met no bug.

    `on_full` is the setting journal.on_full, which decides about new flows while the journal cannot be written.
    """
    name, counters = f"worker {worker['index']}", worker["counters"]
    if not worker["alive"]:
        return [
            Check(name, False, f"dead, its agents are cut off; {worker['restarts']} restarts; see the gateway's log")
        ]
    packets = counters.get("packets", 0) + counters.get("settled_packets", 0)
    found = [Check(name, True, f"pid {worker['pid']}, {packets} packets, {worker['restarts']} restarts")]
    if not counters.get("confined", True):
        found.append(_unfiltered(name))
    if unbound := counters.get("unbound"):
        why = "; ".join(unbound.values())
        found.append(Check(f"{name} queues", False, f"agents are cut off: {why}"))
    journal = counters.get("journal", {})
    if not journal.get("healthy", True):
        effect = "new flows are refused" if on_full == "refuse" else "new flows pass UNRECORDED"
        text = f"cannot be written ({journal['error']}): {effect}; free disk space"
        found.append(Check(f"{name} journal", False, text))
    if failed := counters.get("replies", {}).get("failed"):
        text = f"{failed} refused queries got no answer by DNS, so their clients wait: see the gateway's log"
        found.append(Check(f"{name} replies", False, text))
    found += explained(name, counters)
    if counters.get("engine_errors"):
        text = f"{counters['engine_errors']} packets dropped by bugs in egress (see egress query): please report them"
        found.append(Check(f"{name} engine", False, text))
    return found


def drops(agents: list[dict[str, Any]]) -> list[Check]:
    """Check that the kernel dropped no packet because an agent's queue was full; a failed check for each such agent."""
    lost = {agent["name"]: sum(sum(kind.values()) for kind in agent["dropped"].values()) for agent in agents}
    found = [
        Check(
            f"queues of {name}",
            False,
            f"{count} packets dropped by the kernel: it sent more than could be judged, no other agent lost any; see "
            "egress query 'signature:dos.flood'; honest work needs a faster host or a larger queue.length",
        )
        for name, count in lost.items()
        if count
    ]
    return found or [Check("queues", True, "0 packets dropped by the kernel")]


def kernel_rules(status: dict[str, Any]) -> list[Check]:
    """Check that the kernel rules are in place, and that agents are not cut off because other programs changed them.

    A passed check reports an iptables chain FORWARD with policy DROP: it drops packets that egress lets pass.
    """
    in_place = status["rules_in_place"] or not status["agents"]
    text = "in place" if in_place else "not in place: the gateway installs them again at once; see its log"
    if not status.get("rules_owned", True):
        text += "; this kernel (before Linux 6.9) lets `nft flush ruleset` delete them for a moment"
    if changes := status.get("rules_changed", 0):
        text += f"; changed {changes} times by other programs since the gateway started, and restored"
    found = [Check("kernel rules", in_place, text)]
    if status.get("cut"):
        text = "ALL AGENTS ARE CUT OFF: another program kept changing the kernel rules; stop it, then egress resume"
        found.append(Check("tampering", False, text))
    for tool in ("iptables", "ip6tables"):
        try:
            policy = run(tool, "-S", "FORWARD").splitlines()[0]
        except (EgressError, IndexError):
            continue
        if policy.endswith("DROP"):
            hint = "policy DROP (Docker sets it): accept the agents' interfaces there too; egress's rules only refuse"
            found.append(Check(f"{tool} FORWARD", True, hint))
    return found
