"""A resolver, and servers that share an address, outside; and the agent's real clients.

with resolving(policy) as place:          # a guarded stage, with dnsmasq and the servers below
    place.lookup("good.example.test")     # getent in the agent's namespace, through its resolv.conf
    place.curl("https://good.example.test/")
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from demo.stage import POOL, SERVER, Stage
from tests.lab.gateway import Peer, guarded, listening
from tests.lab.net import PYTHON, needs_root

NEEDED = [
    pytest.mark.lab,
    needs_root,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("dnsmasq", "openssl", "curl")),
        reason="needs dnsmasq, openssl, curl",
    ),
]
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])

RESOLVER = SERVER
# Names mean hosts outside, so the servers have documentation addresses, which count as global (docs/adr/0032).
SHARED = ("203.0.113.3", "2001:db8:2::3")  # of good, evil and hidden: one address, one port, two certificates
EDGE = ("203.0.113.4", "2001:db8:2::4")  # of the names in the CDN, and one of the hundred addresses of big
INSIDE = POOL  # of inner and mirror: addresses that are not global
INNER, MIRROR, IDN = (f"{name}.example.test" for name in ("inner", "mirror", "xn--bcher-kva"))
GOOD, EVIL, HIDDEN, BIG = (f"{name}.example.test" for name in ("good", "evil", "hidden", "big"))
WWW, TARGET = "www.cdn.example.test", "n7.edge.example.net"
TTL = 2
POLICY = f"""\
rules:
  - {{id: dns, action: allow, destination: {RESOLVER[0]}, ports: 53, app: dns}}
  - {{id: dns6, action: allow, destination: "{RESOLVER[1]}", ports: 53, app: dns}}
  - {{id: good, action: allow, destination: {GOOD}, protocol: tcp, ports: [80, 443]}}
  - {{id: cdn, action: allow, destination: "*.cdn.example.test", protocol: tcp, ports: 443}}
  - {{id: big, action: allow, destination: {BIG}, protocol: tcp, ports: 443}}
  - {{id: hidden, action: allow, destination: {HIDDEN}, protocol: tcp, ports: 8443, unnamed: true}}
"""
RESOLV_CONF = Path("/etc/netns")  # NAMESPACE/resolv.conf there is /etc/resolv.conf in the namespace: ip-netns(8)


class Place:
    """A guarded stage, and the resolver and servers that run outside of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.queries = stage.directory / "dnsmasq.log"
        self.certificates = certificates(stage.directory / "certificates")
        self.authority = stage.directory / "certificates" / "ca.crt"
        for address in (*SHARED, *EDGE):
            far(stage, address)
        self._serve_names()
        self.web = [
            Peer(stage, stage.outside, "", *words, module="tests.lab.web")
            for host in (*SHARED, *EDGE, *INSIDE)
            for words in ((host, "80"), (host, "443", self.certificates), (host, "8443", self.certificates))
        ]
        for port in (80, 443, 8443):
            listening(stage, port, stage.outside, (*SHARED, *EDGE, *INSIDE))

    def _serve_names(self) -> None:
        """Start dnsmasq with its own records, and none of the machine's."""
        hosts = self.stage.directory / "hosts"
        many = [f"10.99.5.{number}\nfd99:5::{number:x}" for number in range(1, 100)]
        hosts.write_text("".join(f"{each} {BIG}\n" for each in "\n".join([*many, *EDGE]).split("\n")))
        words = ["--keep-in-foreground", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", "--conf-file=/dev/null"]
        words += ["--user=root", "--pid-file=", "--log-queries=extra", f"--log-facility={self.queries}"]
        words += ["--bind-interfaces", *(f"--listen-address={host}" for host in RESOLVER), "--except-interface=lo"]
        words += [f"--local-ttl={TTL}", "--local=/test/", "--local=/net/"]
        words += [f"--host-record={name},{SHARED[0]},{SHARED[1]}" for name in (GOOD, EVIL, HIDDEN, IDN)]
        words += [f"--host-record={name},{INSIDE[0]},{INSIDE[1]}" for name in (INNER, MIRROR)]
        words += [f"--host-record={TARGET},{EDGE[0]},{EDGE[1]}", f"--cname={WWW},{TARGET}"]
        self.stage.lab.popen(self.stage.outside, [shutil.which("dnsmasq") or "/usr/sbin/dnsmasq", *words])
        listening(self.stage, 53, self.stage.outside, RESOLVER)

    def heard(self) -> str:
        """The log of the resolver's queries, in lower case."""
        return self.queries.read_text().lower()

    def served(self) -> list[str]:
        """The requests that the servers have logged."""
        return [line for peer in self.web for line in peer.lines]

    def lookup(self, name: str, v6: bool = False, namespace: str = "") -> tuple[list[str], float]:
        """Resolve a name with the C library; returns the addresses, and the seconds it took."""
        command = ["getent", "ahostsv6" if v6 else "ahostsv4", name]
        began = time.monotonic()
        done = self.stage.lab.run(namespace or self.stage.agent, command, 30)
        return sorted({line.split()[0] for line in done.stdout.splitlines()}), time.monotonic() - began

    def ask(self, host: str, proto: str, rtype: int, *names: str, timeout: float = 60) -> list[str]:
        """Send questions without the C library, each on a socket of its own."""
        command = [PYTHON, "-m", "tests.lab.dns", "ask", host, proto, str(rtype), *names]
        return self.stage.lab.run(self.stage.agent, command, timeout, check=True).stdout.splitlines()

    def curl(self, *words: str) -> tuple[int, str]:
        """Run curl, which trusts the test's authority; returns (exit status, output)."""
        command = ["curl", "-sS", "--noproxy", "*", "--max-time", "8", "--cacert", str(self.authority), *words]
        done = self.stage.lab.run(self.stage.agent, command, 20)
        return done.returncode, done.stdout

    def at(self, name: str, address: str, *words: str, port: int = 443) -> tuple[int, str]:
        """Fetch from a name at an address, without a DNS query for it."""
        scheme = "http" if port == 80 else "https"
        host = f"[{address}]" if ":" in address else address
        return self.curl("--resolve", f"{name}:{port}:{host}", f"{scheme}://{name}:{port}/page", *words)


def far(stage: Stage, address: str) -> None:
    """Give the outside an address, and the gateway a route to it."""
    stage.lab.address(stage.outside, address, "eth0")
    stage.lab.run(stage.gateway, ["ip", "route", "replace", address, "dev", "uplink0"], check=True)


@contextmanager
def resolving(
    policy: str = POLICY,
    settings: dict[str, object] | None = None,
    v6: bool = False,
    attach: tuple[str, ...] = (),
) -> Iterator[Place]:
    """A guarded stage whose agent reaches the resolver by this family."""
    with ExitStack() as steps:
        stage = steps.enter_context(guarded(policy, settings=settings, attach=attach))
        steps.enter_context(resolver_of(stage.agent, RESOLVER[v6]))
        yield Place(stage)


@contextmanager
def resolver_of(namespace: str, address: str) -> Iterator[None]:
    """Set the resolver of programs in a namespace."""
    directory = RESOLV_CONF / namespace
    directory.mkdir(parents=True)
    try:
        (directory / "resolv.conf").write_text(f"nameserver {address}\n")
        yield
    finally:
        shutil.rmtree(directory)


def certificates(directory: Path) -> str:
    """An authority (ca.crt) and a certificate with its key for good, evil and the edge, by openssl."""
    directory.mkdir()
    served = directory / "served"
    served.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory, timeout=30)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-subj", "/CN=the lab", "-keyout", "ca.key", "-out", "ca.crt")
    for stem, name in (
        (GOOD, GOOD),
        (EVIL, EVIL),
        (WWW, WWW),
        (BIG, BIG),
        (INNER, INNER),
        (MIRROR, MIRROR),
        (IDN, IDN),
        ("default", "default.example.test"),
    ):
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", f"subjectAltName=DNS:{name}")
        openssl(*new, *signed, "-subj", f"/CN={name}", "-keyout", "leaf.key", "-out", "leaf.crt")
        (served / f"{stem}.pem").write_text((directory / "leaf.key").read_text() + (directory / "leaf.crt").read_text())
    return str(served)


def liar(stage: Stage, host: str, address: str) -> Peer:
    """A resolver whose first answer has a wrong id."""
    peer = Peer(stage, stage.outside, "liar", host, address, module="tests.lab.dns")
    peer.hears("open")
    return peer
