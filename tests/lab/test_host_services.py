"""Services of the gateway host: usable by rule, and inspected in both directions."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stage import Stage
from egress.model import Action, Reason
from tests.lab.gateway import POLICY, Peer, findings, flows, guarded, listening, log, outcome, serve, status
from tests.lab.net import PYTHON, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

WEB, POOL, BANNER, ECHO, CLOSED = 80, 443, 8080, 7001, 9000
API, BESIDE = 7477, 7478  # the one the agent may never reach, and its neighbour
ALL = "  - {id: all, action: allow, destination: any, protocol: tcp, ports: [7477-7478]}\n"
NEAR, FAR = ("10.99.1.1", "fd99:1::1"), ("10.99.2.1", "fd99:2::1")  # the gateway's own addresses
PAGE = bytes(range(256)) * 4096  # 1 MiB: past what is inspected before a flow settles
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])

SPEAKS_FIRST = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
while True:
    connection = listener.accept()[0]
    with connection:
        connection.sendall(b"SSH-2.0-OpenSSH_9.9\\r\\n")
        try:
            word = repr(connection.recv(100))
        except OSError as error:
            word = type(error).__name__
    with open(sys.argv[3], "a") as heard:
        heard.write(word + "\\n")
"""  # noqa: E501 - a program of its own


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with guarded(POLICY + ALL) as running:
        gateway, directory = running.gateway, running.directory
        (directory / "page").write_bytes(PAGE)
        web = [PYTHON, "-m", "http.server", str(WEB), "--bind", "::", "--directory", str(directory)]
        running.lab.popen(gateway, web)
        for host in NEAR:
            running.peer(gateway, "pool", host, str(POOL), str(directory / "pool.heard"))
            heard = str(directory / f"banner-{host}")
            running.lab.popen(gateway, [PYTHON, "-c", SPEAKS_FIRST, host, str(BANNER), heard])
        for port in (POOL, BANNER):
            listening(running, port, gateway, NEAR)
        serve(running, ECHO, gateway, NEAR)
        serve(running, CLOSED, gateway, NEAR)
        for port in (API, BESIDE):
            serve(running, port, gateway, (*NEAR, *FAR))
        eventually(lambda: outcome(running, NEAR[0], WEB, namespace=gateway) == "open", "the web server listens")
        yield running


@FAMILIES
@pytest.mark.parametrize("addresses", [NEAR, FAR], ids=["near", "far"])
def test_a_page_of_the_hosts_web_server_is_fetched_whole(
    stage: Stage, addresses: tuple[str, str], family: int, tmp_path: Path
) -> None:
    host, fetched = (addresses[0], f"[{addresses[1]}]")[family], tmp_path / "page"
    done = stage.lab.run(stage.agent, ["curl", "-sS", "-m", "5", "-o", str(fetched), f"http://{host}:{WEB}/page"])
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(PAGE).digest()


@FAMILIES
@pytest.mark.parametrize("segment", [1, 4096])
def test_a_pool_on_the_host_never_hears_the_proof(stage: Stage, family: int, segment: int) -> None:
    miner = [sys.executable, "-m", "demo.peers", "miner", NEAR[family], str(POOL), str(segment)]
    done = stage.lab.run(stage.agent, miner)
    assert done.returncode == 3
    assert "Connection reset" in done.stdout or "Broken pipe" in done.stdout, done.stdout
    assert (stage.directory / "pool.heard").read_text() == ""


@FAMILIES
def test_a_banner_of_the_hosts_own_is_found_and_stays_out(stage: Stage, family: int) -> None:
    """The reply is refused in OUTPUT: the host's server is reset, a retransmission is dropped, the agent is reset."""
    caller = Peer(stage, stage.agent, "tcp", NEAR[family], str(BANNER))
    caller.hears("open")
    heard = stage.directory / f"banner-{NEAR[family]}"
    eventually(lambda: heard.exists() and "ConnectionResetError" in heard.read_text(), "the server is reset")
    caller.send("anybody?")
    caller.hears("ECONNRESET")
    assert not any(line.startswith("got") for line in caller.lines)


@FAMILIES
def test_datagrams_are_answered_and_echo_requests_refused_by_default(stage: Stage, family: int) -> None:
    peer = Peer(stage, stage.agent, "udp", NEAR[family], str(ECHO))
    peer.hears("ready")
    peer.send("hello")
    peer.hears("got hello")
    assert stage.lab.run(stage.agent, ["ping", "-c1", "-W1", NEAR[family]]).returncode == 1


@FAMILIES
def test_what_no_rule_allows_is_refused(stage: Stage, family: int) -> None:
    assert outcome(stage, NEAR[family], CLOSED) == "ECONNREFUSED"
    assert outcome(stage, NEAR[family], CLOSED, namespace=stage.outside) == "open"  # it does listen


@FAMILIES
@pytest.mark.parametrize("addresses", [NEAR, FAR], ids=["near", "far"])
def test_the_port_of_the_api_is_refused_whatever_the_policy_says(
    stage: Stage, addresses: tuple[str, str], family: int
) -> None:
    before = status(stage)["rules"]["api"]
    assert outcome(stage, addresses[family], API) == "ECONNREFUSED"
    assert status(stage)["rules"]["api"] == before + 1
    assert outcome(stage, addresses[family], BESIDE) == "open"
    assert outcome(stage, FAR[family], API, namespace=stage.outside) == "open"  # it does listen


def test_all_of_it_is_written_down(stage: Stage) -> None:
    """This test is the last of its file: it stops the gateway."""
    assert stage.stop() == 0, log(stage)
    kept = flows(stage)
    for family in (0, 1):
        pages = [flow for flow in kept if (flow.dst, flow.dport) == (NEAR[family], WEB)]
        assert pages and all(flow.action is Action.ACCEPT and flow.app_proto == "http" for flow in pages)
        assert all(flow.bytes_in > len(PAGE) // 2 for flow in pages)
        found = {(each.signature, each.dport) for each in findings(stage) if each.dst == NEAR[family]}
        assert found == {("mining.stratum", POOL), ("ssh.unusual-port", BANNER)}
        refused = {flow.reason for flow in kept if (flow.dst, flow.dport) == (NEAR[family], CLOSED)}
        assert refused == {Reason.DEFAULT}
