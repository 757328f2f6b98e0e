"""`egress agent`: agents in the database, changed while a gateway runs or not."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from egress.model import Agent
from egress.store.database.database import writing
from egress.store.policy import agents
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from tests.cli.conftest import Cli


def test_an_agent_is_listed_changed_cut_off_and_removed(cli: Cli, database: Engine) -> None:
    assert cli.ok("agent", "list").err.startswith("no agents")
    with writing(database) as connection:
        for name in ("rome-7", "rome-8"):
            agents.add_agent(connection, Actor("gateway"), StoredAgent(Agent(name), "netns", name))
    words = ["--mode", "ask", "--default", "allow", "--label", "gpu", "--label", "x", "--budget", "bytes=10mb/hour"]
    line = cli.ok("agent", "set", "rome-7", *words).out
    assert line.split()[:5] == ["rome-7", "netns", "rome-7", "ask", "default"]
    assert "labels gpu, x; budgets bytes=10mb/hour" in line
    assert cli.ok("agent", "quarantine", "rome-7").out.startswith("agent rome-7 is in quarantine")
    assert "QUARANTINED" in cli.ok("agent", "list").out.splitlines()[0]
    shown, other = cli.ok("agent", "list", "-o", "json").json
    assert (shown["quarantined"], shown["mode"], shown["labels"]) == (True, "ask", ["gpu", "x"])
    assert (other["quarantined"], other["mode"]) == (False, "enforce")
    assert cli.ok("agent", "release", "rome-7").out == "agent rome-7 is released\n"
    bare = cli.ok("agent", "set", "rome-7", "--no-labels", "--no-budgets").out
    assert "labels" not in bare and "budgets" not in bare
    gone = cli.ok("agent", "rm", "rome-7")
    assert gone.out == "agent rome-7 (netns rome-7) is detached and unguarded from now on\n"
    assert "no gateway runs" in gone.err
    actions = [each["action"] for each in cli.ok("audit", "--actor", "uid:*", "-o", "json").json]
    assert actions == ["agent.delete", "agent.update", "agent.release", "agent.quarantine", "agent.update"]


def test_what_is_wrong_is_named(cli: Cli, database: Engine) -> None:
    for verb in ("quarantine", "release", "rm"):
        done = cli("agent", verb, "rome-7")
        assert (done.code, "rome-7" in done.err) == (1, True)
    with writing(database) as connection:
        agents.add_agent(connection, Actor("gateway"), StoredAgent(Agent("rome-7"), "netns", "rome-7"))
    for words, field in (
        (["set", "rome-7"], "nothing to change"),
        (["set", "rome-7", "--mode", "off"], "--mode"),
        (["set", "rome-7", "--budget", "x"], "--budget"),
        (["set", "rome-7", "--label", "\x07"], "labels/0: "),
        (["add", "x"], "exactly one of"),
        (["add", "x", "--netns", "a", "--interface", "b"], "exactly one of"),
        (["add", "x", "--interface", "nosuch0"], "nosuch0"),
        (["add", "x", "--cidr", "10.0.0.0"], "10.0.0.0"),
    ):
        done = cli("agent", *words)
        assert (done.code, field in done.err) == (2, True), done
    assert [each["name"] for each in cli.ok("agent", "list", "-o", "json").json] == ["rome-7"]
