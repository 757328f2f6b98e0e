"""`--budget` and `--label`: strict forms, shown as they were given, and each mistake one line with the right form."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from egress.cli import agent
from egress.cli.input.budget import budget_option
from egress.model import Agent, Budget, BudgetSpan, Measure
from egress.store.database.database import open_database, writing
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from tests.cli.test_main import egress

BUDGETS = (Budget(Measure.BYTES, 10_000_000, BudgetSpan.HOUR), Budget(Measure.DESTINATIONS, 20, BudgetSpan.EPISODE))


def test_the_option_gives_budgets() -> None:
    @click.command()
    @budget_option
    def tool(budgets: tuple[Budget, ...]) -> None:
        click.echo(budgets == BUDGETS)

    words = ["--budget", "bytes=10mb/hour", "--budget", "destinations=20/episode"]
    assert CliRunner().invoke(tool, words).output == "True\n"
    assert CliRunner().invoke(tool, []).output == "False\n"


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        ("10mb", "must be MEASURE=LIMIT/SPAN, such as bytes=10mb/hour, connections=100/minute"),
        ("bytes=10mb/day", "must end with /minute or /hour or /episode"),
        ("packets=1/hour", "must be bytes or connections or destinations"),
        ("connections=1k/hour", "a whole number"),
        ("bytes=0/hour", "from 1 to"),
        ("bytes=1/hour\x1b[2J\n", "must be MEASURE=LIMIT/SPAN"),
    ],
)
def test_a_wrong_budget_is_one_line_on_both_commands(budget: str, complaint: str) -> None:
    for words in (["agent", "add", "x", "--interface", "none0"], ["run"]):
        done = egress(*words, "--budget", budget, *(["--", "true"] if words == ["run"] else []))
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert complaint in done.err and "--budget" in done.err and done.err.strip().isprintable()


def test_the_same_budget_twice() -> None:
    done = egress("run", "--budget", "bytes=1k/hour", "--budget", "bytes=2k/hour", "--", "true")
    assert done.code == 2 and "limits bytes/hour twice" in done.err and done.err.count("\n") == 1


@pytest.fixture
def config(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "getuid", lambda: 0)  # root on this host needs no token
    path = tmp_path / "egress.yaml"
    path.write_text(f"state_dir: {tmp_path}\n")
    engine = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'egress.db')}")
    agents = (
        Agent("both", labels=("gpu", "team a"), budgets=BUDGETS),
        Agent("labelled", labels=("gpu",)),
        Agent("limited", budgets=BUDGETS[:1]),
        Agent("plain"),
    )
    with writing(engine) as connection:
        for one in agents:
            add_agent(connection, Actor("uid:0 (root)"), StoredAgent(one, "netns", one.name))
    engine.dispose()
    return path


def test_the_list_shows_labels_and_budgets(config: Path) -> None:
    result = CliRunner().invoke(agent.command, ["list", "--config", str(config)])
    assert result.exit_code == 0, result.output
    ends = [line.partition("default deny")[2].strip() for line in result.stdout.splitlines()]
    assert ends == [
        "labels gpu, team a; budgets bytes=10mb/hour, destinations=20/episode",
        "labels gpu",
        "budgets bytes=10mb/hour",
        "",
    ]


def test_the_list_as_json(config: Path) -> None:
    listed = json.loads(CliRunner().invoke(agent.command, ["list", "-o", "json", "--config", str(config)]).stdout)
    assert listed[0]["labels"] == ["gpu", "team a"]
    assert listed[0]["budgets"] == ["bytes=10mb/hour", "destinations=20/episode"]
