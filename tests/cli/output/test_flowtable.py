"""The table of flows on wide and narrow terminals, in a real one and without."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sqlalchemy.engine import Engine

from egress.cli.output.flowtable import flow_table
from egress.model import Mode
from egress.records.shape import ProcessStatus
from egress.store.database.database import writing
from egress.store.query.reader import FlowDetails
from egress.store.recording.writer import store
from tests.cli.conftest import Run
from tests.examples import examples
from tests.store import samples

TOLD = FlowDetails(
    replace(samples.FLOW, mode=Mode.MONITOR, src="2001:db8::1", dst="2001:db8:0:1:2:3:4:5", names=("pool.example",)),
    (samples.FINDING,),
    samples.PROCESS,
)


def drawn(told: FlowDetails, width: int, *, processes: bool = False) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as held:
        console.print(flow_table([told], width, processes=processes))
    return held.get().splitlines()


def test_columns_give_way_before_anything_is_folded() -> None:
    assert drawn(TOLD, 200)[0].split() == (
        ["flow", "time", "(UTC)", "agent", "action", "proto", "source", "destination", "app", "name", "bytes", "why"]
    )
    narrow = drawn(TOLD, 110)
    assert "source" not in narrow[0] and len(narrow) == 2
    assert "(reject)" in narrow[1] and "11-23 15:06:02" in narrow[1] and "mining.stratum" in narrow[1]
    smallest = drawn(TOLD, 80)
    assert smallest[0].split() == ["flow", "time", "(UTC)", "agent", "action", "destination", "name", "why"]
    assert samples.FLOW.flow_id[:8] in smallest[1], "output for other commands is never folded"


@given(st.integers(40, 300), st.text(max_size=60))
@settings(max_examples=examples(60), deadline=None)
def test_no_line_is_wider_than_the_terminal(width: int, text: str) -> None:
    flow = replace(TOLD.flow, agent=text, server_name=text, app_proto=text, rule_id=text)
    told = FlowDetails(flow, (), replace(samples.PROCESS, exe=text))
    for processes in (False, True):
        assert all(cell_len(line) <= width for line in drawn(told, width, processes=processes))


def test_who_opened_it_is_a_column_if_asked_for() -> None:
    assert drawn(TOLD, 200, processes=True)[1].rstrip().endswith("xmrig (4711)")
    gone = replace(samples.PROCESS, status=ProcessStatus.GONE, exe="")
    assert drawn(TOLD._replace(process=gone), 200, processes=True)[1].rstrip().endswith("(gone)")
    assert drawn(TOLD._replace(process=None), 200, processes=True)[1].rstrip().endswith("-")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 200])
def test_in_a_real_terminal(database: Engine, run: Run, columns: int) -> None:
    with writing(database) as connection:
        store(connection, [samples.FLOW, samples.FINDING])
    for command in (["query"], ["timeline", "--since", "2026-11-23T15:00", "--until", "2026-11-23T16:00"]):
        lines = in_terminal(columns, *command, "--config", str(run.config))
        assert max(map(cell_len, lines)) <= columns
        assert any("mining.stratum" in line for line in lines)


def in_terminal(columns: int, *words: str) -> list[str]:
    """Run a command in a terminal of this width; returns its lines, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "egress", *words]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert child.wait(30) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode()).splitlines()
