"""Each process of egress, started as it is in production, loads the modules it needs and none that its wall forbids.

Python itself lists the imports (`-X importtime`, which child processes do not inherit). Import-linter checks the source
(pyproject.toml); this test checks the running process, libraries included.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest

from demo.stage import Stage
from egress.gateway.kernel.command import python
from egress.gateway.pipe.messages import JournalGrant, Settings, Setup, encode
from egress.gateway.pipe.note import encode as note
from egress.gateway.supervisor import startup
from egress.store.recording.recorder import ARGUMENTS, config_line
from tests.lab.net import eventually, needs_root
from tests.store import samples

pytestmark = [pytest.mark.lab, needs_root]

_, ENVIRONMENT = python("egress")
LOG = ("-X", "importtime")
ENGINE = ("egress.engine", "egress.dissection", "egress.wire", "egress.capture", "signatures")  # read hostile bytes
PARSERS = ("hyperscan", "cryptography", "hpack")
DRIVERS = ("sqlalchemy", "alembic", "psycopg", "sqlite3")
DATABASE = (*DRIVERS, "egress.store.database", "egress.store.policy")
WEB = ("fastapi", "starlette", "uvicorn", "pydantic", "httpx", "api")
FIRST = replace(samples.FLOW, updated=samples.START, packets_out=0, packets_in=0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        startup.prepare(made.config)
        yield made


def modules(log: str) -> set[str]:
    """The modules that Python's import log lists, and the packages they are in."""
    names = [line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")]
    return {".".join(parts[: end + 1]) for name in names for parts in [name.split(".")] for end in range(len(parts))}


def assert_loads(log: str, needed: Iterable[str], forbidden: Iterable[str]) -> None:
    loaded = modules(log)
    assert set(needed) <= loaded, log[-2000:]
    assert sorted(set(forbidden) & loaded) == []


def finish(
    stage: Stage, argv: Sequence[str], stdin: bytes = b"", descriptors: Sequence[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run a process in the gateway's namespace to its end, with Python's import log on its standard error."""
    command = ["ip", "netns", "exec", stage.gateway, argv[0], *LOG, *argv[1:]]
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        pass_fds=descriptors,
        cwd="/",
        env=ENVIRONMENT,
    )


def module(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", name, *words]


def test_the_worker_has_no_database(stage: Stage) -> None:
    setup = Setup(Settings.of(stage.config, "nobody"), 0, os.getpid(), (), JournalGrant(1 << 30))
    orders: list[dict[str, object]] = [
        {"op": "policy.commit", "base": -1, "version": 1},
        {"op": "begin"},
        {"op": "stop", "order": 1},
    ]
    done = finish(stage, module("egress.gateway.worker"), b"".join(map(encode, (setup, *orders))))
    said = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert (done.returncode, said[:2]) == (0, ["policy", "ready"]), done.stderr[-2000:]
    needed = ("egress.engine.engine", "signatures", "netfilterqueue", *PARSERS)
    forbidden = (*DATABASE, *WEB, "click", "asyncio", "egress.store.query", "egress.gateway.supervisor")
    assert_loads(done.stderr.decode(), needed, forbidden)


def test_the_attribution_process_has_no_engine_and_no_parser(stage: Stage) -> None:
    worker, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with worker, end:
        worker.send(note(FIRST, 1))
        settings, ends = Settings.of(stage.config, "nobody"), (end.fileno(),)
        setup = Setup(settings, 0, os.getpid(), (), JournalGrant(1 << 30), attribution=ends)
        done = finish(stage, module("egress.gateway.attribution"), encode(setup), ends)
    assert done.returncode == 0, done.stderr[-2000:]
    (segment,) = stage.config.journal_dir.glob("process-0-*.jsonl")
    records = [json.loads(line) for line in segment.read_text().splitlines()]
    flows = [record["flow_id"] for record in records if record["event_type"] != "seal"]
    assert flows == [FIRST.flow_id], "it looked for the flow's process"
    forbidden = (*ENGINE, *PARSERS, *DATABASE, *WEB, "netfilterqueue", "click", "asyncio", "egress.gateway.supervisor")
    assert_loads(done.stderr.decode(), ("egress.gateway.attribution.finder", "egress.gateway.kernel.linux"), forbidden)


# Runs a module as `-m` does, and reports each import after it has dropped privileges.
OBSERVED = """
import runpy, sys
from egress.gateway.kernel import privileges
drop = privileges.drop
def dropping(*given):
    drop(*given)
    sys.addaudithook(lambda event, found: sys.stderr.write(f"late: {found[0]}\\n") if event == "import" else None)
    sys.stderr.write("dropped\\n")
privileges.drop = dropping
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


def late(stage: Stage, name: str, stdin: bytes, descriptors: Sequence[int] = ()) -> str:
    """Run a process to its end. Returns what it imported after it had dropped privileges."""
    done = finish(stage, [sys.executable, "-c", OBSERVED, name], stdin, descriptors)
    log = done.stderr.decode()
    assert done.returncode == 0 and "\ndropped\n" in log, log[-2000:]
    return "\n".join(line for line in log.splitlines() if line.startswith("late: "))


def test_the_worker_imports_nothing_once_it_has_no_privileges(stage: Stage) -> None:
    """With packets: tests/gateway/worker/test_preload.py."""
    setup = Setup(Settings.of(stage.config, "nobody"), 0, os.getpid(), (), JournalGrant(1 << 30))
    orders: list[dict[str, object]] = [{"op": "begin"}, {"op": "tally", "agent": "a"}, {"op": "stop", "order": 1}]
    assert late(stage, "egress.gateway.worker", b"".join(map(encode, (setup, *orders)))) == ""


def test_nor_does_the_attribution_process(stage: Stage) -> None:
    worker, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with worker, end:
        worker.send(note(FIRST, 1))
        settings, ends = Settings.of(stage.config, "nobody"), (end.fileno(),)
        setup = Setup(settings, 0, os.getpid(), (), JournalGrant(1 << 30), attribution=ends)
        assert late(stage, "egress.gateway.attribution", encode(setup), ends) == ""


def test_the_recorder_has_no_engine_and_no_netfilter(stage: Stage) -> None:
    command = ["ip", "netns", "exec", stage.gateway, ARGUMENTS[0], *LOG, *ARGUMENTS[1:]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        process.stdin.write(config_line(stage.config).encode())
        process.stdin.flush()
        eventually((stage.config.state_dir / "egress.db").exists, "the recorder has made the database", 30.0)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log[-2000:]
    forbidden = (*ENGINE, *PARSERS, *WEB, "netfilterqueue", "click", "egress.gateway", "egress.store.query")
    assert_loads(log.decode(), ("sqlalchemy", "egress.store.recording.writer"), forbidden)


def test_the_supervisor_reads_no_packets(stage: Stage) -> None:
    log = started_and_stopped(stage, ["gateway", "--config", str(stage.config_file)])
    # It imports the packages that workers need (checks.py), and none of the code that hands them hostile bytes.
    forbidden = (*ENGINE, *WEB, "egress.gateway.worker", "egress.store.query", "egress.whatif")
    assert_loads(log, ("egress.gateway.supervisor.supervisor", "sqlalchemy", "egress.store.policy"), forbidden)


def test_egress_run_and_what_it_forks_have_no_database(stage: Stage) -> None:
    words = ["run", "--config", str(stage.config_file), "--", "true"]
    done = finish(stage, module("egress", *words))
    assert done.returncode == 0, done.stderr[-2000:]
    # Of the store the command line knows one exception, which needs no database.
    store = tuple(f"egress.store.{room}" for room in ("database.database", "policy", "query", "recording", "cases"))
    forbidden = (*ENGINE, *PARSERS, *DRIVERS, *WEB, *store, "netfilterqueue", "egress.gateway.supervisor")
    assert_loads(done.stderr.decode(), ("egress.gateway.sandbox.launch", "egress.gateway.kernel.linux"), forbidden)


def test_the_api_has_no_netfilter_and_no_kernel_rules(stage: Stage) -> None:
    log = started_and_stopped(stage, ["serve", "--host", "", "--config", str(stage.config_file)])
    forbidden = ("netfilterqueue", "hyperscan", "egress.gateway", "signatures")
    assert_loads(log, ("fastapi", "sqlalchemy", "api.app"), forbidden)


def started_and_stopped(stage: Stage, words: Sequence[str]) -> str:
    """Start a daemon, wait until it listens, stop it in order. Returns its log."""
    log = stage.directory / "daemon.log"
    command = ["ip", "netns", "exec", stage.gateway, sys.executable, *LOG, "-m", "egress", *words]
    sockets = (stage.config.control_socket, stage.config.api_socket)
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT) as process:
        eventually(lambda: any(path.exists() for path in sockets) or process.poll() is not None, "it listens", 30.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-2000:]
    return log.read_text()
