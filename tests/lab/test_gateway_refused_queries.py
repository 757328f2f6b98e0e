"""Refused DNS queries on real queues, as real clients see them: the C library, musl's, node, dig.

Each client runs in the agent's namespace; one that this machine lacks is left out. `search` and `ndots:5` are those of
a Kubernetes pod: the names that the search list makes are refused, and the client must go on to the allowed one.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.model import Action, Reason
from tests.lab.gateway import flows
from tests.lab.names import EDGE, EVIL, FAMILIES, GOOD, NEEDED, RESOLV_CONF, RESOLVER, SHARED, Place, resolving
from tests.lab.net import PYTHON, eventually

pytestmark = NEEDED

POD = "search ns1.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
AT_ONCE = 3.0  # seconds, the start of a program on a busy machine included; one query without an answer costs 5
SIX = """
import socket, time
began = time.monotonic()
for number in range(6):
    try:
        socket.getaddrinfo(f"n{number}.evil.test", 443)
        print("found")
    except socket.gaierror as error:
        assert error.errno == socket.EAI_NONAME, error
print(time.monotonic() - began)
"""
UNCONNECTED = """
import socket, sys
from tests.engine.resolver import question
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(4)
asked = question("eViL.test", 1, 4660)
sock.sendto(asked, (sys.argv[1], 53))
answer, (host, port, *_) = sock.recvfrom(4096)
assert (answer[:2], answer[2:4], answer[12:]) == (asked[:2], b"\\x81\\x83", asked[12:]), answer
print(host, port)
"""
MUSL = """
#include <netdb.h>
#include <stdio.h>
int main(int count, char **names)
{
    struct addrinfo *found;
    for (int at = 1; at < count; at++)
        printf("%s %d\\n", names[at], getaddrinfo(names[at], "443", 0, &found));
}
"""
NODE = """
const dns = require("dns").promises
const asked = [dns.resolve4(NAME), dns.resolve4("evil.test"), dns.lookup(NAME), dns.lookup("evil.test")]
const said = each => each.reason ? each.reason.code : "found"
Promise.allSettled(asked).then(all => console.log(all.map(said).join()))
""".replace("NAME", f'"{GOOD}"')


@pytest.fixture
def place(v6: bool) -> Iterator[Place]:
    with resolving(v6=v6) as built:
        yield built


def configure(place: Place, v6: bool, *more: str, first: str = "") -> None:
    servers = [f"nameserver {host}\n" for host in (first, RESOLVER[v6]) if host]
    (RESOLV_CONF / place.stage.agent / "resolv.conf").write_text("".join([*servers, *more]))


def run(place: Place, *command: str) -> tuple[str, float]:
    """Run a program in the agent's namespace; returns its output, and the seconds it took."""
    began = time.monotonic()
    done = place.stage.lab.run(place.stage.agent, list(command), 30)
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - began


@FAMILIES
def test_the_c_library_goes_on_to_the_allowed_name(place: Place, v6: bool) -> None:
    for more in ((), (POD,), (POD, "options use-vc\n")):
        configure(place, v6, *more)
        found, took = place.lookup(GOOD, v6)
        assert found == [SHARED[v6]] and took < AT_ONCE, more
        assert float(run(place, PYTHON, "-c", SIX)[0]) < AT_ONCE, more
    configure(place, v6, first=EDGE[v6])  # a resolver that no rule allows
    found, took = place.lookup(GOOD, v6)
    assert found == [SHARED[v6]] and took < AT_ONCE
    assert place.stage.stop() == 0
    refused = {flow for flow in flows(place.stage) if flow.dport == 53 and flow.action is Action.REJECT}
    names = Counter((flow.proto, flow.reason, flow.server_name) for flow in refused)
    for proto in ("udp", "tcp"):
        assert names[proto, Reason.QUERY, "n5.evil.test"] and names[proto, Reason.QUERY, f"{GOOD}.cluster.local"]
    assert names["udp", Reason.DEFAULT, ""] and "cluster.local" not in place.heard() and "evil" not in place.heard()


@FAMILIES
def test_an_unconnected_socket_gets_its_answer(place: Place, v6: bool) -> None:
    said, took = run(place, PYTHON, "-c", UNCONNECTED, RESOLVER[v6])
    assert said.split() == [RESOLVER[v6], "53"] and took < AT_ONCE
    for proto in ("udp", "tcp"):
        assert place.ask(RESOLVER[v6], proto, 1, EVIL, GOOD, "x.test") == ["answer 3", "answer 0", "answer 3"]

    def counted() -> Any:
        status: Any = place.stage.status()
        return status["workers"][0]["counters"]["replies"]

    eventually(lambda: counted() == {"sent": 5, "limited": 0, "failed": 0}, "the counters of the next heartbeat")


def test_other_resolvers_go_on_and_dig_shows_the_reason(tmp_path: Path) -> None:
    with resolving() as place:
        if shutil.which("dig"):
            for words in ((), ("+tcp",)):
                said, _ = run(place, "dig", *words, "+tries=1", "+time=2", f"@{RESOLVER[0]}", "Evil.Test")
                assert "status: NXDOMAIN" in said and "flags: qr rd ra;" in said
                assert "EDE: 15 (Blocked): (egress: no rule allows this name)" in said
            said, _ = run(place, "dig", "+tries=1", "+time=2", f"@{EDGE[0]}", GOOD)
            assert "status: REFUSED" in said and "EDE: 18 (Prohibited): (egress: no rule allows this resolver)" in said
        configure(place, False, POD)
        if shutil.which("node"):  # c-ares asks for both names from one socket at the same time
            said, took = run(place, "node", "-e", NODE)
            assert said.split() == ["found,ENOTFOUND,found,ENOTFOUND"] and took < AT_ONCE + 2
        if shutil.which("musl-gcc"):
            (tmp_path / "lookup.c").write_text(MUSL)
            program = str(tmp_path / "lookup")
            subprocess.run(["musl-gcc", "-static", "-o", program, program + ".c"], check=True, timeout=60)
            said, took = run(place, program, GOOD, "evil.test")
            assert said.split() == [GOOD, "0", "evil.test", "-2"] and took < AT_ONCE
