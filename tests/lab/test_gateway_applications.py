"""Rules with `app` on real queues: raw bytes deliver nothing, real programs pass whole."""

from __future__ import annotations

import shutil

import pytest

from egress.model import Action, Reason
from egress.store.query.reader import Filter
from tests.lab.gateway import HOSTS, Peer, flows, guarded, listening
from tests.lab.names import certificates
from tests.lab.net import needs_root

pytestmark = [pytest.mark.lab, needs_root]

POLICY = """\
rules:
  - {id: tls, action: allow, destination: 10.99.2.2, ports: 443, app: tls}
  - {id: tls6, action: allow, destination: "fd99:2::2", ports: 443, app: tls}
  - {id: ssh, action: allow, destination: 10.99.2.2, ports: 22, app: ssh}
  - {id: ssh6, action: allow, destination: "fd99:2::2", ports: 22, app: ssh}
  - {id: http, action: allow, destination: 10.99.2.2, ports: 80, app: http}
  - {id: http6, action: allow, destination: "fd99:2::2", ports: 80, app: http}
"""
COUNT = 20
RAW = f"""
import random, socket, sys
for number in range({COUNT}):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock:
        sock.settimeout(10)
        try:
            sock.sendall(random.Random(number).randbytes(60000))
            sock.recv(1)
            print("answered")
        except ConnectionResetError:
            print("reset")
"""
REQUEST = r"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HTTP2 = """
const http2 = require("http2"), http = require("http");
const answer = (request, response) => response.end("over " + request.httpVersion + "\\n");
const second = http2.createServer(answer);
require("net").createServer((socket) => second.emit("connection", socket)).listen(80, process.argv[1]);
"""
FAMILIES = pytest.mark.parametrize("host", HOSTS, ids=["IPv4", "IPv6"])


def needs(*tools: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(any(shutil.which(tool) is None for tool in tools), reason=f"needs {', '.join(tools)}")


@FAMILIES
def test_random_bytes_to_tls_and_ssh_hosts_deliver_nothing(host: str) -> None:
    with guarded(POLICY) as stage:
        for port in (443, 22):
            sink = Peer(stage, stage.outside, "sink", host, str(port))
            listening(stage, port, stage.outside, (host,))
            said = stage.lab.python(stage.agent, RAW, host, str(port), timeout=60)
            assert said.split() == ["reset"] * COUNT
            sink.hears("accepted", count=COUNT)
            assert set(sink.lines) == {"accepted"}
        assert stage.stop() == 0
        refused = [flow for flow in flows(stage, Filter()) if flow.dport in (22, 443)]
        assert len(refused) == 2 * COUNT
        assert {(flow.action, flow.reason, flow.app_proto) for flow in refused} == {
            (Action.REJECT, Reason.APPLICATION, "unknown")
        }


@needs("openssl", "curl", "ssh", "sshd", "head")
@FAMILIES
def test_openssl_curl_and_ssh_pass_whole(host: str) -> None:
    with guarded(POLICY) as stage:
        directory = certificates(stage.directory / "certificates")
        Peer(stage, stage.outside, "", host, "443", directory, module="tests.lab.web")
        listening(stage, 443, stage.outside, (host,))
        where = f"[{host}]:443" if ":" in host else f"{host}:443"
        for version in ("-tls1_2", "-tls1_3"):
            command = ["openssl", "s_client", "-quiet", version, "-connect", where]
            done = stage.lab.run(stage.agent, ["sh", "-c", 'printf "$0" | "$@"', REQUEST, *command], 20)
            assert "here is /a" in done.stdout, (version, done.stdout)
        got = stage.lab.run(stage.agent, ["curl", "-skS", "-m", "10", f"https://{where}/b", f"https://{where}/c"])
        assert got.stdout == "here is /b\nhere is /c\n", got.stderr
        stage.serve_ssh(22)
        done = stage.ssh(host, 22, "head", "-c", "300000", "/dev/zero")
        assert len(done.stdout) == 300_000, done.stderr
        assert stage.stop() == 0
        assert {flow.action for flow in flows(stage, Filter()) if flow.dport in (22, 443)} == {Action.ACCEPT}


@needs("node", "curl")
@FAMILIES
def test_http_of_both_versions_passes_in_the_clear(host: str) -> None:
    with guarded(POLICY) as stage:
        stage.lab.popen(stage.outside, ["node", "-e", HTTP2, host])
        listening(stage, 80, stage.outside, (host,))
        where = f"http://[{host}]/" if ":" in host else f"http://{host}/"
        done = stage.lab.run(stage.agent, ["curl", "-sS", "-m", "10", "--http2-prior-knowledge", where])
        assert done.stdout == "over 2.0\n", done.stderr
        assert stage.stop() == 0
        assert {flow.app_proto for flow in flows(stage, Filter()) if flow.dport == 80} == {"http2"}
