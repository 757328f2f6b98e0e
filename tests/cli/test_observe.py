"""`egress observe`: the newest records, new ones as they arrive, and its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from egress.model import Action
from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.cli.running import Run
from tests.store import samples


@pytest.fixture
def run(cli: Cli) -> Run:
    return Run(cli.config)


def test_the_newest_last(database: Engine, run: Run) -> None:
    with writing(database) as connection:
        store(connection, [samples.FLOW, samples.FINDING, samples.ANOMALY])
    lines = run("observe").stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["train-1"] * 3
    assert "refused spoofed: source is not the agent's (3 packets)" in lines[0]
    assert "FINDING mining.stratum high tcp 198.51.100.7:443: A miner logs in" in lines[1]
    assert "reject tcp 10.77.0.2:40000 -> 198.51.100.7:443 stratum pool.example 1.5 kB" in lines[2]
    assert len(run("observe", "-n", "1").stdout.splitlines()) == 1
    assert run("observe", "action:accept").stdout == run("observe", "-n", "0").stdout == ""
    documents = [json.loads(line) for line in run("observe", "-o", "jsonl", "port:443").stdout.splitlines()]
    assert [document["event_type"] for document in documents] == ["alert", "flow"]


@contextmanager
def following(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "egress", "observe", "-f", "-n", "1", "-o", "jsonl", *words]
    command += ["--config", str(tmp_path / "egress.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def begun(database: Engine, tmp_path: Path) -> Engine:
    with writing(database) as connection:
        store(connection, [samples.FLOW])
    return database


def _next(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(json.loads(process.stdout.readline())["flow_id"], 16)


def test_it_follows_until_it_is_told_to_end(begun: Engine, tmp_path: Path) -> None:
    with following(tmp_path, "-action:accept") as process:
        assert _next(process) == 0xA1
        for number in (2, 4):
            with writing(begun) as connection:
                accepted = samples.numbered(number + 1, action=Action.ACCEPT)
                store(connection, [accepted, samples.numbered(number)])
            assert _next(process) == number
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr is not None and process.stderr.read() == ""


def test_a_scripts_background_job_goes_on_after_control_c(begun: Engine, tmp_path: Path) -> None:
    """POSIX shells start such a job with the signal ignored; SIGTERM ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with following(tmp_path) as process:
            assert _next(process) == 0xA1
            process.send_signal(signal.SIGINT)
            with writing(begun) as connection:
                store(connection, [samples.numbered(2)])
            assert _next(process) == 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_ends_when_nobody_reads(begun: Engine, tmp_path: Path) -> None:
    with following(tmp_path) as process:
        assert _next(process) == 0xA1
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
