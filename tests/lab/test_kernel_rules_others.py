"""Rules, routes and settings of other programs: we notice their changes, and change none of theirs."""

from __future__ import annotations

import pytest

from tests.lab.net import Lab, needs_root
from tests.lab.test_kernel_rules import RULES

pytestmark = [pytest.mark.lab, needs_root]

VOLATILE = ("fs.", "kernel.", "net.netfilter.nf_conntrack_count", "vm.", "dev.", "user.", "debug.", "abi.")
NOTIFIED = """
import select, subprocess, sys, time
from egress.config import Config
from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.attachment import Attachment
from egress.gateway.kernel.guard import Guard
from egress.gateway.kernel.watch import Watch
kernel = Guard(Config())
kernel.owned = False
attachments = [Attachment("a", "egr0001", (), 7400, 7401, False)]
kernel.install(attachments)
watch, other = Watch(), nft.Nftables()
def changes():
    select.select(watch.sockets, [], [], 2)
    return watch.read(kernel.port)
kernel.install(attachments)
assert not watch.read(kernel.port).rules, "our own changes"
other.apply([nft.table("theirs", owned=False)])
assert not changes().rules, "another table"
start = time.monotonic()
other.apply([nft.no_table("egress")])
assert changes().rules and not kernel.installed()
kernel.install(attachments)
assert kernel.installed()
assert time.monotonic() - start < 2, "it does not wait for a look"
watch.read(kernel.port)
subprocess.run(["ip", "link", "add", "new0", "type", "bridge"], check=True)
found = changes()
assert found.links and not found.rules, found
subprocess.run(["ip", "-6", "rule", "add", "fwmark", "1", "lookup", "main"], check=True)
assert changes().rules
"""


def test_changes_by_others_are_notified_at_once() -> None:
    with Lab() as lab:
        lab.python(lab.ns("gateway"), NOTIFIED)


def test_others_rules_and_counters_stay_byte_identical() -> None:
    theirs = (
        '*filter\n:DOCKER - [0:0]\n-A FORWARD -m comment --comment "a b -j EGRESS-REFUSE" -j DOCKER\n'
        "-A DOCKER -i x -j ACCEPT\n"
        "-A INPUT -i lo -j ACCEPT\n-A OUTPUT -o x -j ACCEPT\nCOMMIT\n*mangle\n"
        "-A FORWARD -o y -j MARK --set-xmark 0x1/0xff\n-A OUTPUT -o y -j MARK --set-xmark 0x1/0xff\nCOMMIT\n"
        "*nat\n-A POSTROUTING -s 10.0.0.0/8 -j ACCEPT\nCOMMIT\n"
    )
    with Lab() as lab:
        gateway = lab.ns("gateway")

        def saved() -> list[str]:
            commands = [["iptables-save", "-c"], ["ip6tables-save", "-c"], ["ip", "-d", "-4", "rule"]]
            commands += [["ip", "-d", "-6", "rule"], ["ip", "route", "show", "table", "all"], ["sysctl", "-a"]]
            text = "".join(lab.run(gateway, command, check=True).stdout for command in commands)
            return [line for line in text.splitlines() if not line.startswith(("#", *VOLATILE))]

        for tool in ("iptables", "ip6tables"):
            text = theirs if tool == "iptables" else theirs.replace("10.0.0.0/8", "fc00::/8")
            lab.run(gateway, [f"{tool}-restore"], stdin=text, check=True)
        lab.run(gateway, ["ping", "-c1", "127.0.0.1"], check=True)
        before = saved()
        assert any(line.startswith("[2:") and "-i lo" in line for line in before)
        for argv in (["install", "masquerade"], ["install", "masquerade"], ["install"], ["block"], ["install"]):
            lab.python(gateway, RULES, *argv)
            assert [line for line in saved() if "proto 101" not in line] == before
        lab.python(gateway, RULES, "remove")
        lab.python(gateway, RULES, "remove")
        assert saved() == before
        assert lab.python(gateway, RULES, "state") == "([], [], [])"
