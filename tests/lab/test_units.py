"""The units of packaging: their exposure as systemd sees it; the gateway and the API at work under their limits."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stage import Stage
from egress.gateway.kernel import privileges
from tests.lab.confine import CAPABILITIES, HEADER
from tests.lab.net import PYTHON, ROOT, eventually, needs_root

UNITS = ROOT / "packaging"
EXPOSURE = {  # systemd-analyze(1): 0 to 10
    "egress.service": 4.5,
    "egress-api.service": 3.0,
    "egress-block.service": 3.0,
    "egress-hunt.service": 3.0,
}
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
needs_headers = pytest.mark.skipif(
    not (HEADER.exists() and CAPABILITIES.exists()), reason="the numbers of system calls are in linux-libc-dev, x86-64"
)


@needs_systemd
@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_is_not_exposed(name: str) -> None:
    words = [str(ANALYZE), "security", "--offline=true", "--no-pager", str(UNITS / name)]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    found = re.search(r"exposure level for \S+ ([\d.]+)", said.stdout)
    assert found and float(found[1]) <= EXPOSURE[name], said.stdout[-300:]
    assert "gnoring" not in said.stderr, "a line of the unit is not understood"


def test_every_unit_is_measured() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == set(EXPOSURE)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as built:
        yield built


def confined(stage: Stage, unit: str, *words: str) -> subprocess.Popen[bytes]:
    """Start an egress command of the stage's gateway under the limits of a unit."""
    Path("/etc/netns").mkdir(exist_ok=True)
    for directory in (stage.config.state_dir, stage.config.run_dir):  # as StateDirectory=, RuntimeDirectory= do
        directory.mkdir(mode=0o755, exist_ok=True)
    confine = [sys.executable, "-m", "tests.lab.confine", str(UNITS / unit), str(stage.directory)]
    command = [PYTHON, "-m", "egress", *words, "--config", str(stage.config_file)]
    stage.log = stage.directory / "confined.log"
    with stage.log.open("ab") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", stage.gateway, *confine, *command], stdout=log, stderr=log, cwd=ROOT
        )


@needs_systemd
@needs_headers
@needs_root
@pytest.mark.lab
def test_gateway_and_sandbox_work_under_the_limits(stage: Stage) -> None:
    stage.daemon = confined(stage, "egress.service", "gateway")
    eventually(stage._guards, "the gateway is up", 60.0)
    stage.attach()
    run = stage.lab.run(
        stage.gateway,
        [PYTHON, "-m", "egress", "run", "--config", str(stage.config_file), "--user", "nobody", "--", "sh", "-c",
         "id -un; cat /etc/resolv.conf >/dev/null && echo read; ls /sys/class/net"],
        60.0,
    )  # fmt: skip
    assert run.stdout.split() == ["nobody", "read", "eth0", "lo"], run.stderr + stage.log.read_text()[-2000:]
    doctor = stage.egress("doctor", check=False)
    assert "FAIL" not in doctor.stdout, doctor.stdout + stage.log.read_text()[-2000:]
    assert stage.stop() == 0, stage.log.read_text()[-2000:]
    log = stage.log.read_text()
    assert "ermitted" not in log and "Traceback" not in log and "ead-only" not in log, log[-3000:]


@needs_systemd
@needs_headers
@needs_root
@pytest.mark.lab
def test_the_api_works_under_the_limits(stage: Stage) -> None:
    stage.start()
    process = confined(stage, "egress-api.service", "serve", "--host", "")
    try:
        eventually(stage.config.api_socket.exists, "the API listens", 60.0)
        added = stage.egress("allow", "example.org", "--port", "443", check=False)
        assert added.returncode == 0, added.stderr + stage.log.read_text()[-2000:]
        door = str(stage.config.api_socket)
        url = "http://egress/api/v1/metrics"
        metrics = stage.lab.run(stage.gateway, ["curl", "-s", "--unix-socket", door, url], 30.0)
        assert "egress_up 1" in metrics.stdout, metrics.stdout[-500:]
    finally:
        process.terminate()
        assert process.wait(20) == 0, stage.log.read_text()[-2000:]


@pytest.mark.slow
def test_systemd_is_notified_that_the_gateway_guards_is_alive_and_stops(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stage.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        stage.start("--workers", "1")
        heard = [listener.recv(99) for _ in range(3)]
        assert heard == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert stage.stop() == 0
        while (word := listener.recv(99)) == b"WATCHDOG=1":
            continue
        assert word == b"STOPPING=1"
    unit = (UNITS / "egress.service").read_text()
    assert "Type=notify" in unit and "WatchdogSec=60" in unit


def test_the_accounts_are_those_that_processes_become() -> None:
    made = re.findall(r'^u (\S+) - "[^":]+"$', (UNITS / "egress.sysusers").read_text(), re.MULTILINE)
    assert made == [privileges.WORKER_USER, privileges.ATTRIBUTION_USER]
