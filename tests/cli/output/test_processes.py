"""The process behind a flow, in output for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from hypothesis import given
from sqlalchemy.engine import Engine

from egress.cli.output.oneline import brief
from egress.cli.output.processes import NEVER, process_cell, process_lines, program
from egress.records.shape import ProcessStatus
from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.cli.conftest import Run
from tests.store import samples

SHORT = samples.FLOW.flow_id


def test_all_that_is_known_is_told() -> None:
    lines = "\n".join(process_lines(samples.PROCESS))
    for part in ("xmrig -o pool.example:443", "/usr/bin/xmrig", "pid 4711 (12 in its own namespace)", "uid 1000"):
        assert part in lines
    assert f"docker {samples.PROCESS.container}" in lines and samples.PROCESS.cgroup in lines
    assert "in its own" not in "\n".join(process_lines(replace(samples.PROCESS, inner_pid=4711)))


def test_why_nobody_is_named_is_told() -> None:
    gone = replace(samples.PROCESS, status=ProcessStatus.GONE, pid=0, exe="", cmdline="", reason="no socket", uid=7)
    assert next(process_lines(gone)).endswith("gone: no socket, a socket of uid 7")
    assert NEVER in next(process_lines(None))
    assert (process_cell(None), process_cell(gone), process_cell(samples.PROCESS)) == ("-", "(gone)", "xmrig (4711)")
    assert "gone: no socket" in brief(gone) and "xmrig -o" in brief(samples.PROCESS)


@given(samples.processes)
def test_nothing_moves_a_cursor(process: object) -> None:
    shown = [*process_lines(process), program(process), process_cell(process), brief(process)]  # type: ignore[arg-type]
    assert all(line.isprintable() for line in shown)


def test_every_command_that_shows_flows_shows_it(database: Engine, run: Run) -> None:
    with writing(database) as connection:
        store(connection, [samples.FLOW, samples.FINDING, samples.PROCESS])
    assert "xmrig -o pool.example:443" in run("show", "flow", SHORT).stdout
    assert "xmrig -o pool.example:443" in run("show", "finding", samples.FINDING.finding_id).stdout
    assert "/usr/bin/xmrig" in run("show", "agent", samples.FLOW.agent).stdout
    assert "xmrig (4711)" in run("query", "--process").stdout and "xmrig (" not in run("query").stdout
    for words in ("show flow", SHORT), ("show finding", samples.FINDING.finding_id), ("query", f"flow:{SHORT}"):
        document = json.loads(run(*words[0].split(), words[1], "-o", "json").stdout)
        assert document.get("flows", [document])[0]["process"]["pid"] == 4711
    row = next(csv.DictReader(io.StringIO(run("query", "-o", "csv").stdout)))
    assert (row["process"], row["pid"], row["exe"]) == ("found", "4711", "/usr/bin/xmrig")
    assert "xmrig" in run("query", "--count-by", "process,container").stdout
