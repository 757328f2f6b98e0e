"""The addresses of this host, as the kernel lists them."""

from __future__ import annotations

import json
from pathlib import Path

from egress.gateway.kernel.hostaddresses import host_addresses
from tests.lab.net import Lab, needs_root


def test_loopback_is_among_them() -> None:
    if Path("/proc/net/fib_trie").read_text().find("127.0.0.1") >= 0:
        assert "127.0.0.1" in host_addresses()


@needs_root
def test_they_are_those_of_each_interface_in_both_families() -> None:
    with Lab() as lab:
        here = lab.ns("here")
        lab.run(here, ["ip", "link", "set", "lo", "up"], check=True)
        lab.run(here, ["ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1"], check=True)
        lab.run(here, ["ip", "link", "set", "d0", "up"], check=True)
        lines = ["address add 203.0.113.7/24 dev d0", "address add 2001:db8::7/64 dev d0"]
        lines += ["address add 10.9.9.1 peer 10.9.9.2/32 dev d0"]
        lines += [f"address add 198.51.100.{number}/32 dev d0" for number in range(1, 200)]
        lab.run(here, ["sh", "-c", "".join(f"ip {line} && " for line in lines) + "true"], check=True)
        code = "import json; from egress.gateway.kernel.hostaddresses import host_addresses as read"
        found = set(json.loads(lab.python(here, f"{code}; print(json.dumps(list(read())))")))
    wanted = {"127.0.0.1", "::1", "203.0.113.7", "2001:db8::7", "10.9.9.1"}
    wanted |= {f"198.51.100.{number}" for number in range(1, 200)}
    assert {each for each in found if not each.startswith("fe80:")} == wanted
