"""Golden captures: short scenes through the real gateway, recorded by its --capture.

    python -m tests.lab.record [SCENE…]

Needs root. Each scene has a stage and a gateway of its own, and becomes a folder of tests/captures, as described in
tests/test_golden.py. The signatures that must be found are written here by hand; the packets that prove them are those
on which the gateway made its finding, by their time. Recording fails where the gateway found anything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from demo.stage import SERVER, Stage
from egress import capture
from tests.lab.gateway import HOSTS, LOGIN, POLICY, Peer, call, findings, flows, serve
from tests.lab.net import ROOT, eventually

DIRECTORY = ROOT / "tests" / "captures"
MAX_BYTES = 50_000
AGENT_NETS = ["10.99.1.0/24", "fd99:1::/64"]
FAMILIES = ("4", "6")
PAGE = b"<!doctype html><title>a page</title>\n" * 50
Scene = Callable[[Stage, str], None]


@dataclass(frozen=True)
class Golden:
    """One scene, played over both families."""

    name: str
    play: Scene
    signatures: tuple[str, ...] = ()


def reverse_ssh(stage: Stage, host: str) -> None:
    stage.serve_ssh(443)
    stage.ssh(host, 443, options=("-N", "-R", "2222:localhost:22"))


def plain_ssh(stage: Stage, host: str) -> None:
    stage.serve_ssh(22)
    done = stage.ssh(host, 22, "echo", "hello")
    assert done.stdout == "hello\n", done.stderr


def stratum(stage: Stage, host: str, segment: int) -> None:
    heard = stage.directory / "pool.heard"
    stage.serve_peer("pool", HOSTS, 443, str(heard))
    miner = [sys.executable, "-m", "demo.peers", "miner", host, "443", str(segment)]
    assert stage.lab.run(stage.agent, miner, 20.0).returncode == 3
    assert heard.read_text() == ""


def cryptonote(stage: Stage, host: str) -> None:
    serve(stage, 80)
    caller = call(stage, host, 80)
    caller.hears("open")
    caller.send(LOGIN)
    caller.hears("ECONNRESET")


def beacon(stage: Stage, host: str) -> None:
    serve(stage, 8080)
    Peer(stage, stage.agent, "beacon", host, "8080", "0.7").hears("ECONN", 60.0)


def curl(stage: Stage, host: str) -> None:
    root = stage.directory / "web"
    root.mkdir()
    (root / "page.html").write_bytes(PAGE)
    server = [sys.executable, "-m", "http.server", "80", "--bind", "::", "--directory", str(root)]
    stage.lab.popen(stage.outside, server)
    stage.listening(80)
    address = f"[{host}]" if ":" in host else host
    done = stage.lab.run(stage.agent, ["curl", "-sS", "-m", "10", f"http://{address}/page.html"])
    assert done.stdout.encode() == PAGE, done.stderr


def json_rpc(stage: Stage, host: str) -> None:
    """JSON-RPC in the same form that is not mining."""
    serve(stage, 443)
    caller = call(stage, host, 443)
    caller.hears("open")
    for method in ("initialize", "eth_blockNumber", "tools/list"):
        caller.send(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": []}))
        caller.hears('got {"jsonrpc"')
    caller.close()


GOLDEN = (
    Golden("ssh-reverse-443", reverse_ssh, ("ssh.unusual-port",)),
    Golden("ssh-22", plain_ssh),
    Golden("stratum-whole", lambda stage, host: stratum(stage, host, 1400), ("mining.stratum",)),
    Golden("stratum-one-byte", lambda stage, host: stratum(stage, host, 1), ("mining.stratum",)),
    Golden("cryptonote-login", cryptonote, ("mining.stratum",)),
    Golden("beacon", beacon, ("beacon.timing",)),
    Golden("curl", curl),
    Golden("json-rpc", json_rpc),
)


def record(golden: Golden, host: str, folder: Path) -> list[dict[str, object]]:
    """Play a scene and write its folder; returns the findings as expected.json has them."""
    path = folder / "capture.pcapng"
    with Stage(POLICY) as stage:
        directory = stage.directory / "captured"
        directory.mkdir()
        stage.attach("rome-7")
        stage.start("--workers", "1", "--capture", str(directory))
        golden.play(stage, host)
        eventually(lambda: bool(flows(stage)), "the flow is stored")
        assert stage.stop() == 0
        (captured,) = directory.iterdir()
        path.write_bytes(captured.read_bytes())
        made = findings(stage)
    found = [{"signature": each.signature, "frame": frame(path, each.time)} for each in made]
    if sorted(each.signature for each in made) != sorted(golden.signatures):
        raise SystemExit(f"record: {folder.name}: found {found}, expected {golden.signatures}")
    if path.stat().st_size >= MAX_BYTES:
        raise SystemExit(f"record: {folder.name} has {path.stat().st_size} bytes, at most {MAX_BYTES} are wanted")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "expected.json").write_text(json.dumps({"agent_nets": AGENT_NETS, "findings": found}, indent=1) + "\n")
    return found


def frame(path: Path, ts: float) -> int:
    """The number of the captured packet with this time, to the microsecond."""
    with path.open("rb") as stream:
        (number,) = [frame.number for frame in capture.frames(stream) if round(frame.ts * 1e6) == round(ts * 1e6)]
    return number


def main() -> None:
    """Record all scenes, or only those that are named."""
    scenes = {golden.name: golden for golden in GOLDEN}
    names = sys.argv[1:] or list(scenes)
    if unknown := set(names) - set(scenes):
        raise SystemExit(f"record: no scene {min(unknown)}: there are {', '.join(scenes)}")
    for golden in map(scenes.__getitem__, names):
        for family, host in zip(FAMILIES, SERVER, strict=True):
            folder = DIRECTORY / f"{golden.name}-ipv{family}"
            folder.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(f"{folder.name}: {record(golden, host, folder) or 'nothing found'}\n")


if __name__ == "__main__":
    main()
