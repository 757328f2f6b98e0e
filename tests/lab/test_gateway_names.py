"""Names on real queues: a real resolver, real TLS servers that share an address, the C library and curl as clients.

The lapse of a binding is not here: it takes 90 seconds (`engine.names`), so `tests/engine/test_engine_names.py` has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from egress.model import Action, Reason
from egress.store.query.reader import Filter
from tests.lab.gateway import HOSTS, Witness, call, flows, guarded, outcome, serve
from tests.lab.names import (
    BIG,
    EDGE,
    EVIL,
    FAMILIES,
    GOOD,
    HIDDEN,
    NEEDED,
    POLICY,
    RESOLVER,
    SHARED,
    WWW,
    Place,
    liar,
    resolver_of,
    resolving,
)
from tests.lab.net import eventually
from tests.lab.test_gateway_policy import hangup
from tests.traffic import client_hello

pytestmark = NEEDED

REFUSED, RESET = 7, {35, 52, 56}  # curl: cannot connect; cut in the handshake, before an answer, while receiving
AT_ONCE = 1.0  # seconds; a resolver that hears nothing tries again after 5
TYPES = (1, 28)  # A, AAAA


@pytest.fixture
def place(v6: bool) -> Iterator[Place]:
    with resolving(v6=v6) as built:
        yield built


def reasons(place: Place, port: int) -> set[tuple[Action, Reason, str]]:
    """Stop the gateway; returns the verdicts on the flows to a port."""
    assert place.stage.stop() == 0
    return {(flow.action, flow.reason, flow.rule_id) for flow in flows(place.stage, Filter()) if flow.dport == port}


@FAMILIES
def test_an_address_is_reached_once_this_agent_has_resolved_its_name(place: Place, v6: bool) -> None:
    other = place.stage.lab.ns("other")
    place.stage.lab.veth(other, "eth0", place.stage.gateway, "agent1", 3)
    place.stage.lab.route(other, via=3)
    place.stage.egress("agent", "add", "b-1", "--netns", other)
    assert place.at(GOOD, SHARED[v6])[0] == REFUSED
    with resolver_of(other, RESOLVER[v6]):
        assert place.lookup(GOOD, v6, other)[0] == [SHARED[v6]]
    assert place.at(GOOD, SHARED[v6])[0] == REFUSED  # an answer to another agent does not count
    assert place.lookup(GOOD, v6)[0] == [SHARED[v6]]
    assert place.at(GOOD, SHARED[v6]) == (0, "here is /page\n")
    assert place.curl(f"-{'6' if v6 else '4'}", f"https://{GOOD}/whole") == (0, "here is /whole\n")
    assert [line for line in place.served() if line.startswith("request")] == [
        f"request {GOOD} /page", f"request {GOOD} /whole"
    ]  # fmt: skip
    assert reasons(place, 443) == {(Action.REJECT, Reason.DEFAULT, ""), (Action.ACCEPT, Reason.RULE, "good")}


@FAMILIES
def test_aliases_bind_and_so_do_answers_over_tcp(place: Place, v6: bool) -> None:
    assert place.at(WWW, EDGE[v6])[0] == place.at(BIG, EDGE[v6])[0] == REFUSED
    assert place.curl(f"-{'6' if v6 else '4'}", f"https://{WWW}/cdn") == (0, "here is /cdn\n")
    assert f"{WWW} is <cname>" in place.heard()
    assert place.at(BIG, EDGE[v6])[0] in RESET  # the address is open by now, not for this name
    found, _ = place.lookup(BIG, v6)
    assert len(found) == 100 and EDGE[v6] in found  # in 512 octets there is room for 30
    assert place.at(BIG, EDGE[v6]) == (0, "here is /page\n")
    assert place.stage.stop() == 0
    asked = {flow.proto for flow in flows(place.stage) if flow.dport == 53 and flow.action is Action.ACCEPT}
    assert asked == {"udp", "tcp"}


@FAMILIES
def test_an_answer_with_another_id_binds_nothing(v6: bool) -> None:
    rule = f'  - {{id: liar, action: allow, destination: "{EDGE[v6]}", ports: 53}}\n'
    with resolving(POLICY + rule, v6=v6) as place:
        resolver = liar(place.stage, EDGE[v6], SHARED[v6])
        assert place.ask(EDGE[v6], "udp", TYPES[v6], GOOD) == ["answer 0"]
        resolver.hears("lied")
        assert place.at(GOOD, SHARED[v6])[0] == REFUSED
        assert place.ask(EDGE[v6], "udp", TYPES[v6], GOOD) == ["answer 0"]
        resolver.hears("answered")
        assert place.at(GOOD, SHARED[v6])[0] == 0


@FAMILIES
def test_another_name_at_the_same_address_and_port_is_refused_at_the_hello(place: Place, v6: bool) -> None:
    place.lookup(GOOD, v6)
    numeric = f"[{SHARED[v6]}]" if v6 else SHARED[v6]
    with Witness(place.stage) as witness:
        assert place.at(EVIL, SHARED[v6])[0] in RESET
        assert place.curl("-k", f"https://{numeric}/nameless")[0] in RESET
        assert place.at(GOOD, SHARED[v6]) == (0, "here is /page\n")
        witness.sees(GOOD.encode())
        assert not any(EVIL.encode() in packet for packet in witness.packets())
    assert place.served() == [f"hello {GOOD}", f"request {GOOD} /page"]
    assert reasons(place, 443) == {(Action.REJECT, Reason.NAME, "good"), (Action.ACCEPT, Reason.RULE, "good")}


@FAMILIES
def test_an_unnamed_rule_passes_a_hello_without_a_name(place: Place, v6: bool) -> None:
    place.lookup(HIDDEN, v6)
    numeric = f"[{SHARED[v6]}]" if v6 else SHARED[v6]
    assert place.curl("-k", f"https://{numeric}:8443/nameless") == (0, "here is /nameless\n")
    assert place.at(EVIL, SHARED[v6], port=8443)[0] in RESET
    assert "hello -" in place.served() and not any(EVIL in line for line in place.served())


@FAMILIES
def test_plain_http_for_another_host_is_refused_also_on_a_connection_in_use(place: Place, v6: bool) -> None:
    family = f"-{'6' if v6 else '4'}"
    assert place.curl(family, f"http://{GOOD}/first") == (0, "here is /first\n")
    assert place.curl(family, "-H", f"Host: {EVIL}", f"http://{GOOD}/second")[0] in RESET
    again = (family, "-H", f"Host: {EVIL}", f"http://{GOOD}/fourth")
    code, said = place.curl(family, f"http://{GOOD}/third", "--next", "--max-time", "8", "-sS", *again)
    assert (code in RESET, said) == (True, "here is /third\n")
    assert place.curl(family, "--proxy", f"http://{GOOD}:80", "--noproxy", "-", f"http://{EVIL}/fifth")[0] in RESET
    assert place.served() == [f"request {GOOD} /first", f"request {GOOD} /third"]


@FAMILIES
def test_queries_for_other_names_never_reach_the_resolver_and_are_answered_at_once(place: Place, v6: bool) -> None:
    host, secret = RESOLVER[v6], f"secret-{{}}.{GOOD}"
    for number, (proto, rtype) in enumerate((proto, rtype) for proto in ("udp", "tcp") for rtype in TYPES):
        (said,) = place.ask(host, proto, rtype, secret.format(number))
        assert said == "answer 3"
    found, took = place.lookup(EVIL, v6)
    assert found == [] and took < AT_ONCE
    for proto in ("udp", "tcp"):
        assert place.ask(host, proto, TYPES[v6], "gOOd.eXample.Test", f"{GOOD}.") == ["answer 0"] * 2
    assert "secret" not in place.heard() and EVIL not in place.heard()
    assert {entry for entry in reasons(place, 53) if entry[0] is Action.REJECT} == {(Action.REJECT, Reason.QUERY, "")}


@FAMILIES
def test_ungated_queries_pass(v6: bool) -> None:
    with resolving(settings={"gate_queries": False}, v6=v6) as place:
        assert place.lookup(EVIL, v6)[0] == [SHARED[v6]]
        assert EVIL in place.heard()
        assert place.at(EVIL, SHARED[v6])[0] == REFUSED


# Send a hello as it is; print `answered` for any answer of the server, else the errno's name.
HELLO = """
import errno, socket, sys
host, port, hello = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
try:
    with socket.create_connection((host, port), 5) as sock:
        sock.sendall(hello)
        print("answered" if sock.recv(5) else "closed")
except OSError as error:
    print(errno.errorcode.get(error.errno, "timeout"))
"""
# An ECH extension as browsers send it to every host (GREASE, RFC 9849 section 6.2).
ECH = bytes.fromhex("fe0d00fa0000010001070020") + bytes(32) + bytes.fromhex("00d0") + bytes(208)


@FAMILIES
def test_a_hello_with_an_extension_for_hidden_names_is_judged_by_its_clear_name(place: Place, v6: bool) -> None:
    def says(port: int, name: str, more: bytes = b"") -> str:
        words = (SHARED[v6], str(port), client_hello(name, more).hex())
        return place.stage.lab.python(place.stage.agent, HELLO, *words).strip()

    place.lookup(GOOD, v6)
    place.lookup(HIDDEN, v6)
    assert says(443, GOOD) == says(443, GOOD, ECH) == "answered", "browsers pass"
    assert says(8443, HIDDEN, ECH) == says(8443, "") == "answered"
    for port in (443, 8443):
        assert says(port, EVIL) == says(port, EVIL, ECH) == "ECONNRESET", "the bytes name another host"
    assert not any(EVIL in line for line in place.served())


PORT = 8080
EXPIRING = """\
rules:
  - {{id: soon, action: allow, destination: any, protocol: tcp, ports: 8080, expires: "{instant}"}}
"""


def test_a_rule_ends_at_its_instant_for_new_and_living_flows() -> None:
    with guarded() as stage:
        serve(stage, PORT)
        instant = time.time() + 3.5
        written = datetime.fromtimestamp(instant, UTC).isoformat()
        hangup(stage, EXPIRING.format(instant=written), 2)
        living = [call(stage, host, PORT) for host in HOSTS]
        for caller in living:
            caller.hears("open")
            caller.send("in time")
            caller.hears("got in time")
        assert time.time() < instant - 0.3, "the machine is too slow for this test"
        ended: dict[str, float] = {}
        while len(ended) < 2:
            assert time.time() < instant + 3
            for host, caller in zip(HOSTS, living, strict=True):
                if host not in ended and caller.lines[-1].startswith("ECONN"):
                    ended[host] = time.time() - instant
                elif host not in ended:
                    caller.send("still")
            time.sleep(0.02)
        assert all(-0.05 < late < 0.5 for late in ended.values()), ended
        assert [outcome(stage, host, PORT) for host in HOSTS] == ["ECONNREFUSED"] * 2
        eventually(lambda: len([flow for flow in flows(stage) if flow.reason is Reason.DEFAULT]) >= 4, "it is on file")
        cut = [flow for flow in flows(stage) if flow.packets_in > 1]
        assert {(flow.action, flow.policy_version) for flow in cut} == {(Action.REJECT, 2)}
        assert all(0 <= flow.updated - instant < 3 for flow in cut)
