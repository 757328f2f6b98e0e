"""`egress show episode`, `egress episodes`, and steps in other stories."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy.engine import Engine

from egress.model import Step, StepSource
from egress.records.shape import Record
from egress.store.database.database import storing, writing
from egress.store.recording import steps
from egress.store.recording.steps import make
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.cli.running import Run
from tests.store.query.test_episodes import ASKED, FREE, IN_ONE, RECORDS, STEPS, TUNNEL
from tests.whatif.recording import START

WORDS = ("  bash", "-- no tool was running", "  python", "LIVED ON into step 2", "FOUND ssh.role-reversal", "dns pool")
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202e\r\n"


@pytest.fixture
def run(cli: Cli) -> Run:
    return Run(cli.config)


def keep(engine: Engine, told: list[Step], records: list[Record]) -> None:
    with storing(engine) as connection:
        steps.report(connection, told, 1000)
    with writing(engine) as connection:
        store(connection, records)


@pytest.fixture
def filled(database: Engine) -> Engine:
    keep(database, STEPS, RECORDS)
    return database


def test_an_episode_reads_as_a_story(filled: Engine, run: Run) -> None:
    lines = run("show", "episode", "e").stdout.splitlines()
    at = {word: number for number, line in enumerate(lines) for word in WORDS if word in line}  # the last ones
    assert at["  bash"] < at["dns pool"] < at["-- no tool was running"] < at["  python"]
    assert at["  bash"] < at["LIVED ON into step 2"] < at["-- no tool was running"] < at["FOUND ssh.role-reversal"]
    free = next(line for line in lines if FREE.flow_id[:8] in line and "203.0.113.9" in line)
    assert "+5.000 s, 5.000 s before the end" in free
    assert "of which 1 flows and 1 findings while no tool was running" in "\n".join(lines)
    assert "3 packets refused without a flow" in "\n".join(lines)


def test_an_episode_for_programs(filled: Engine, run: Run) -> None:
    told = json.loads(run("show", "episode", "e", "-o", "json").stdout)
    assert [(part["kind"], part["traffic"]["flows"]) for part in told["parts"]] == [
        ("step", 3),
        ("no tool", 1),
        ("step", 1),
    ]
    assert {flow["flow_id"] for flow in told["parts"][0]["flows"]} == {each.flow_id for each in (IN_ONE, ASKED, TUNNEL)}
    assert told["parts"][0]["step"]["tool"] == "bash"


def test_whose_and_which(filled: Engine, run: Run) -> None:
    keep(filled, [replace(STEPS[0], agent="b")], [])
    assert "choose one with --agent: b, trainer" in str(run("show", "episode", "e", code=2).exception)
    assert "agent      b" in run("show", "episode", "e", "--agent", "b").stdout
    assert "egress episodes" in str(run("show", "episode", "x", code=1).exception)


def test_what_an_agent_writes_moves_no_cursor(database: Engine, run: Run) -> None:
    """Agents write tool names and arguments. Ids are checked on entry, and still shown escaped."""
    step = make("a", episode="e", id="s", tool=HOSTILE, summary=HOSTILE * 300, start=START, end=START + 1,
                source=StepSource.OTLP, call_id=HOSTILE, reporter="x", now=START)  # fmt: skip
    keep(
        database, [step, replace(step, id=HOSTILE, episode=HOSTILE)], [replace(IN_ONE, agent="a", server_name=HOSTILE)]
    )
    for words in (
        ("show", "episode", "e"),
        ("episodes",),
        ("show", "flow", IN_ONE.flow_id),
        ("query", "--count-by", "tool"),
    ):
        out = run(*words).stdout
        assert all(char.isprintable() or char == "\n" for char in out), words


def test_a_list(filled: Engine, run: Run) -> None:
    assert "under way" not in run("episodes").stdout
    keep(filled, [replace(STEPS[0], episode="g", start=START + 400, end=None, until=START + 4000)], [])
    rows = [line.split()[:2] for line in run("episodes").stdout.splitlines()[1:]]
    assert rows == [["g", "trainer"], ["f", "trainer"], ["e", "trainer"]]
    assert "under way" in run("episodes", "--limit", "1").stdout
    told = json.loads(run("episodes", "--agent", "train*", "-o", "json").stdout)
    assert [(each["episode"], each["steps"]) for each in told] == [("g", 1), ("f", 1), ("e", 2)]
    assert "docs/operations.md" in run("episodes", "--agent", "x").stderr


def test_a_flow_and_a_finding_say_what_the_agent_was_doing(filled: Engine, run: Run) -> None:
    assert "during     bash (step one of episode e), 1.000 s after it began" in run("show", IN_ONE.flow_id).stdout
    alone = run("show", FREE.flow_id).stdout
    assert "NO TOOL WAS RUNNING: 5.000 s after bash (step one of episode e) ended, 5.000 s before python" in alone
    told = json.loads(run("show", "flow", IN_ONE.flow_id, "-o", "json").stdout)
    assert told["agent"] == {"name": "trainer", "episode": "e", "step": "one"} and told["steps"][0]["tool"] == "bash"
    found = RECORDS[-2]
    shown = run("show", "finding", found.finding_id).stdout  # type: ignore[union-attr]
    assert "NO TOOL WAS RUNNING: 6.000 s after bash" in shown
    told = json.loads(run("show", "finding", found.finding_id, "-o", "json").stdout)  # type: ignore[union-attr]
    assert told["agent"] == {"name": "trainer", "episode": None, "step": None}


def test_an_agent_whose_framework_tells_nothing_has_no_such_line(filled: Engine, run: Run) -> None:
    keep(filled, [], [replace(IN_ONE, agent="silent", flow_id="00000000000000ff")])
    assert "during" not in run("show", "00000000000000ff").stdout
