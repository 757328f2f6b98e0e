"""Names and addresses on real queues: hosts inside, metadata, NAT64, the gateway's own address; Multipath TCP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from demo.stage import POOL, Stage
from egress.model import Action, Reason
from egress.store.query.reader import Filter
from egress.wire.mptcp import MPTCP
from tests.lab.gateway import HOSTS, Witness, findings, flows, guarded, outcome, serve, worker
from tests.lab.names import FAMILIES, GOOD, IDN, INNER, INSIDE, MIRROR, NEEDED, RESOLVER, SHARED, Place, far, resolving
from tests.lab.net import PYTHON, eventually

pytestmark = NEEDED

REFUSED = 7  # curl: cannot connect
PORT = 8080
METADATA = ("169.254.169.254", "fd00:ec2::254")
TRANSLATED = ("64:ff9b::10.99.2.3", "64:ff9b::10.99.2.4", "64:ff9b:1::10.99.2.3")
NAMES = f"""\
rules:
  - {{id: dns, action: allow, destination: {RESOLVER[0]}, ports: 53, app: dns}}
  - {{id: dns6, action: allow, destination: "{RESOLVER[1]}", ports: 53, app: dns}}
  - {{id: good, action: allow, destination: {GOOD}, protocol: tcp, ports: [80, 443]}}
  - {{id: inner, action: allow, destination: {INNER}, protocol: tcp, ports: 443}}
  - {{id: mirror, action: allow, destination: {MIRROR}, protocol: tcp, ports: 443, private: true}}
  - {{id: books, action: allow, destination: "bücher.example.test", protocol: tcp, ports: 443}}
"""
OPEN = f"""\
rules:
  - {{id: named, action: allow, destination: "{METADATA[0]}", protocol: tcp, ports: {PORT + 1}}}
  - {{id: named6, action: allow, destination: "{METADATA[1]}", protocol: tcp, ports: {PORT + 1}}}
  - {{id: no-pool, action: deny, destination: {POOL[0]}}}
"""
# Over Multipath TCP: send a word, read it back, and say if the connection fell back to plain TCP (MPTCP_INFO, flags).
CLIENT = """
import socket, struct, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_STREAM, 262) as sock:
    sock.settimeout(5); sock.connect((host, port)); sock.sendall(b"over one path"); print(sock.recv(100).decode())
"""
SERVER = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_STREAM, 262) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); sock.bind((host, port)); sock.listen()
    print("up", flush=True)
    while True:
        caller, _ = sock.accept()
        with caller: caller.sendall(caller.recv(100))
"""


@pytest.fixture(scope="module", params=[False, True], ids=["IPv4", "IPv6"])
def resolved(request: pytest.FixtureRequest) -> Iterator[tuple[Place, bool]]:
    """A place whose agent reaches the resolver by one family, and True if that is IPv6."""
    with resolving(NAMES, v6=request.param) as built:
        yield built, request.param


def family(v6: bool) -> str:
    return "-6" if v6 else "-4"


def doctor_says(stage: Stage, words: str) -> None:
    """Check that the doctor says so, once the worker's counters have come with its heartbeat."""
    packets = worker(stage)["counters"]["packets"]
    outcome(stage, RESOLVER[0], 9)
    eventually(lambda: worker(stage)["counters"]["packets"] > packets, "a heartbeat has come")
    assert words in stage.egress("doctor", check=False).stdout


def test_a_name_rule_admits_a_host_inside_only_if_it_is_private(resolved: tuple[Place, bool]) -> None:
    (place, v6), stage = resolved, resolved[0].stage
    assert place.curl(family(v6), f"https://{INNER}/one")[0] == REFUSED
    assert place.lookup(INNER, v6)[0] == [INSIDE[v6]], "the answer passes, and is a finding only"
    assert place.curl(family(v6), f"https://{MIRROR}/two") == (0, "here is /two\n")
    assert place.curl(family(v6), f"https://{GOOD}/three") == (0, "here is /three\n"), "the resolver is not shut"
    doctor_says(stage, "set private: true in the rule (egress query reason:private names it)")
    asked = stage.egress(
        "check", f"{INNER}:443", "--address", INSIDE[v6], "--agent", "rome-7", "-o", "json", check=False
    )
    answer = json.loads(asked.stdout)
    assert (answer["allowed"], answer["reason"], answer["rule_id"]) == (False, "private", "inner")
    eventually(lambda: bool(findings(stage)), "the finding is stored")
    assert {(found.signature, found.action, found.src != "") for found in findings(stage)} == {
        ("dns.rebinding", Action.ACCEPT, True)
    }
    assert f"The name {INNER}, allowed by rule inner, has the address " in findings(stage)[0].summary
    stage.egress("allow", INNER, "--port", "443", "--private", "--id", "inside")
    eventually(lambda: place.curl(family(v6), f"https://{INNER}/four")[0] == 0, "the edit lets it pass")
    refused = [flow for flow in flows(stage, Filter()) if flow.reason is Reason.PRIVATE]
    assert refused and {(flow.rule_id, flow.dst, flow.action) for flow in refused} == {
        ("inner", INSIDE[v6], Action.REJECT)
    }


def test_a_name_in_another_script_is_reached(resolved: tuple[Place, bool]) -> None:
    place, v6 = resolved
    assert place.curl(family(v6), f"https://{IDN}/books") == (0, "here is /books\n")
    assert place.at("xn--a.example.test", SHARED[v6])[0] != 0, "not a valid name"
    assert worker(place.stage)["counters"]["engine_errors"] == 0


def test_the_gateways_own_address_is_not_meant_though_it_is_global(resolved: tuple[Place, bool]) -> None:
    (place, v6), stage = resolved, resolved[0].stage
    assert place.curl(family(v6), f"https://{GOOD}/before") == (0, "here is /before\n")
    # From now on the address of good is one of the gateway, which has a server there.
    stage.lab.run(stage.gateway, ["ip", "route", "delete", SHARED[v6], "dev", "uplink0"], check=True)
    stage.lab.address(stage.gateway, SHARED[v6], "lo")
    serve(stage, 443, stage.gateway, (SHARED[v6],))
    eventually(lambda: outcome(stage, SHARED[v6], 443) == "ECONNREFUSED", "it is refused")
    eventually(
        lambda: (Reason.PRIVATE, "good") in {(flow.reason, flow.rule_id) for flow in flows(stage)}, "it is on record"
    )


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with guarded(OPEN, attach=("--default", "allow")) as running:
        for address in (*METADATA, *TRANSLATED):
            far(running, address)
        for port in (PORT, PORT + 1):
            serve(running, port, hosts=METADATA)
        canonical = ("64:ff9b::a63:203", "64:ff9b::a63:204", "64:ff9b:1::a63:203")
        serve(running, PORT, hosts=(*canonical, *POOL))
        yield running


@FAMILIES
def test_metadata_is_refused_at_once_under_a_default_of_allow(stage: Stage, v6: bool) -> None:
    with Witness(stage) as witness:
        assert outcome(stage, METADATA[v6], PORT) in ("ECONNREFUSED", "EACCES")
        assert outcome(stage, METADATA[v6], PORT + 1) == "open", "a rule names it"
        eventually(lambda: any((PORT + 1).to_bytes(2) in raw for raw in witness.packets()), "the allowed one is seen")
        assert not any(PORT.to_bytes(2) == raw[22:24] or PORT.to_bytes(2) == raw[42:44] for raw in witness.packets())

    def recorded() -> bool:
        return any(flow.reason is Reason.METADATA and flow.dst == METADATA[v6] for flow in flows(stage))

    eventually(recorded, "it is on record")
    doctor_says(stage, "at which clouds serve metadata were refused")


def test_a_deny_rule_is_not_evaded_through_a_translator(stage: Stage) -> None:
    assert outcome(stage, POOL[0], PORT) == "ECONNREFUSED"
    assert outcome(stage, TRANSLATED[0], PORT) == outcome(stage, TRANSLATED[2], PORT) == "ECONNREFUSED"
    assert outcome(stage, TRANSLATED[1], PORT) == "open"
    asked = stage.egress("check", f"[{TRANSLATED[0]}]:{PORT}", "--agent", "rome-7", "-o", "json", check=False)
    assert json.loads(asked.stdout)["rule_id"] == "no-pool"


@FAMILIES
def test_multipath_tcp_becomes_tcp(stage: Stage, v6: bool) -> None:
    port, host = 9200 + v6, HOSTS[v6]
    server = stage.lab.popen(stage.outside, [PYTHON, "-c", SERVER, host, str(port)])
    assert server.stdout is not None
    if not server.stdout.readline():
        pytest.skip("this kernel has no Multipath TCP")
    before = worker(stage)["counters"]["multipath"]
    with Witness(stage) as witness:
        assert stage.lab.python(stage.agent, CLIENT, host, str(port)) == "over one path\n"
        witness.sees(b"over one path")
        mine = [raw for raw in witness.packets() if port.to_bytes(2) in raw[:44]]
        start = 40 if v6 else 20
        options = [raw[start + 20 : start + (raw[start + 12] >> 4 << 2)] for raw in mine]
        assert mine and not any(bytes((MPTCP, size)) in each for each in options for size in (4, 12, 20, 22))
    eventually(lambda: worker(stage)["counters"]["multipath"] > before, "it is counted")
    doctor_says(stage, "Multipath TCP was removed from")
