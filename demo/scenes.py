"""The agent's attempts to reach the outside, over IPv4 and IPv6, and the outcome that each must have."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.stage import CONTROL, FAMILIES, POOL, SERVER, Stage

SSH_PORT, TUNNEL_PORT, POOL_PORT, WEB_PORT, BEACON_PORT, FORBIDDEN_PORT = 22, 443, 443, 80, 8080, 9000


@dataclass(frozen=True)
class Attempt:
    """One attempt: its expected outcome, whether it had this outcome, and the client's message."""

    family: str
    what: str
    expected: str  # passes, refused, cut
    ok: bool
    seen: str


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a program's output, cut to 60 characters."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1][:60] if lines else "no output"


def reverse_ssh(stage: Stage, family: str, host: str) -> Attempt:
    """Try a reverse SSH tunnel to TUNNEL_PORT; the client must fail before it has logged in."""
    log = stage.directory / "ssh" / "log"
    before = log.read_text().count("Accepted")
    done = stage.ssh(host, TUNNEL_PORT, options=("-N", "-R", "2222:localhost:22"))
    ok = done.returncode == 255 and log.read_text().count("Accepted") == before
    return Attempt(family, f"ssh -R to port {TUNNEL_PORT}", "refused", ok, last_line(done))


def allowed_ssh(stage: Stage, family: str, host: str) -> Attempt:
    """Run a command over ssh on the allowed port."""
    done = stage.ssh(host, SSH_PORT, "echo", "hello from outside")
    return Attempt(family, "ssh to port 22", "passes", done.stdout == "hello from outside\n", last_line(done))


def miner(stage: Stage, family: str, host: str, heard: Path, segment: int) -> Attempt:
    """Run the miner with segments of `segment` bytes; the pool must not receive a method."""
    before = heard.read_text()
    done = stage.lab.run(
        stage.agent, [sys.executable, "-m", "demo.peers", "miner", host, str(POOL_PORT), str(segment)], 20.0
    )
    how = "in one-byte segments" if segment == 1 else "in whole messages"
    ok = done.returncode == 3 and heard.read_text() == before
    return Attempt(family, f"miner, {how}", "refused", ok, last_line(done))


def allowed_web(stage: Stage, family: str, host: str, digest: str) -> Attempt:
    """Fetch the web page, which must arrive with the SHA-256 `digest`."""
    address = f"[{host}]" if ":" in host else host
    page = stage.directory / "fetched"
    page.unlink(missing_ok=True)
    url = f"http://{address}:{WEB_PORT}/page"
    done = stage.lab.run(stage.agent, ["curl", "-sS", "-m", "10", "-o", str(page), url], 20.0)
    ok = done.returncode == 0 and hashlib.sha256(page.read_bytes()).hexdigest() == digest
    return Attempt(family, "curl, 1 MiB page", "passes", ok, "page unharmed" if ok else last_line(done))


def forbidden(stage: Stage, family: str, host: str) -> Attempt:
    """Connect to a port that no rule allows; the connection must be refused."""
    address = f"[{host}]" if ":" in host else host
    done = stage.lab.run(stage.agent, ["curl", "-sS", "-m", "10", f"http://{address}:{FORBIDDEN_PORT}/"], 20.0)
    return Attempt(family, f"curl to port {FORBIDDEN_PORT}", "refused", done.returncode == 7, last_line(done))


def beacon(family: str, process: subprocess.Popen[str]) -> Attempt:
    """Wait for the end of a beacon, which must be refused before its last beat."""
    output, _ = process.communicate(timeout=90)
    return Attempt(family, "beacon, 1 s ± 20 %", "cut", process.returncode == 3, output.strip()[:60])


def play(stage: Stage) -> Iterator[Attempt]:
    """Start the servers, then make all attempts, one after the other, and yield each.

    The beacons run meanwhile, because the gateway needs some seconds to find them; their attempts come last.
    """
    heard = stage.directory / "pool.heard"
    heard.touch()
    stage.serve_ssh(SSH_PORT, TUNNEL_PORT)
    digest = stage.serve_web(WEB_PORT)
    stage.serve_peer("pool", POOL, POOL_PORT, str(heard))
    stage.serve_peer("echo", CONTROL, BEACON_PORT)
    beacons = [stage.peer(stage.agent, "beacon", host, str(BEACON_PORT)) for host in CONTROL]
    for family, server, pool in zip(FAMILIES, SERVER, POOL, strict=True):
        yield allowed_ssh(stage, family, server)
        yield reverse_ssh(stage, family, server)
        yield miner(stage, family, pool, heard, 1400)
        yield miner(stage, family, pool, heard, 1)
        yield allowed_web(stage, family, server, digest)
        yield forbidden(stage, family, server)
    for family, process in zip(FAMILIES, beacons, strict=True):
        yield beacon(family, process)
