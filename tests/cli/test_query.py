"""`egress query` and `egress show` on a real database: output for people, output for programs, error messages."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.cli import query, show
from egress.cli.output import story
from egress.errors import EgressError, InputError
from egress.model import Action, Mode, Reason, Rule
from egress.records.read import from_eve
from egress.store.database.database import open_database, writing
from egress.store.database.tables import findings as finding_table
from egress.store.database.tables import flows as flow_table
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.recording.writer import store
from tests.examples import examples
from tests.store import samples

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202e\r\n\x00"


@pytest.fixture
def engine(tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    opened = open_database(f"sqlite:///{shutil.copy(empty_database, tmp_path / 'egress.db')}")
    (tmp_path / "egress.yaml").write_text(f"state_dir: {tmp_path}\n")
    yield opened
    opened.dispose()


@pytest.fixture
def filled(engine: Engine) -> Engine:
    accepted = samples.numbered(
        2, action=Action.ACCEPT, reason=Reason.RULE, rule_id="ssh", app_proto="ssh", end=samples.START + 9
    )
    watched = samples.numbered(3, mode=Mode.MONITOR, agent="build", reason=Reason.DEFAULT, dst="2001:db8::7")
    with writing(engine) as connection:
        store(connection, [samples.FLOW, accepted, watched, samples.FINDING])
    _policy(engine, Rule("ssh", Action.ACCEPT, protocol="tcp", ports=((22, 22),), comment="lab"))
    return engine


def _policy(engine: Engine, *rules: Rule) -> None:
    with writing(engine) as connection:
        Edit(connection, Actor("uid:0 (root)"), 1.0).add(rules)


def _run(tmp_path: Path, command: object, *arguments: str) -> Result:
    assert command in (query.command, show.command)
    tool = query.command if command is query.command else show.command
    return CliRunner().invoke(tool, [*arguments, "--config", str(tmp_path / "egress.yaml")])


def _query(tmp_path: Path, *arguments: str) -> str:
    result = _run(tmp_path, query.command, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def _show(tmp_path: Path, *arguments: str) -> str:
    result = _run(tmp_path, show.command, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_people_see_a_table_newest_last(filled: Engine, tmp_path: Path) -> None:
    lines = _query(tmp_path).splitlines()
    assert "why" in lines[0]
    assert "mining.stratum" in lines[1] and "198.51.100.7:443" in lines[1] and "1.5 kB" in lines[1]
    assert "accept" in lines[2] and "rule ssh" in lines[2]
    assert "reject (monitor)" in lines[3] and "[2001:db8::7]:443" in lines[3]
    assert lines[4] == "3 flows, 2 refused"


def test_filters_reach_the_database(filled: Engine, tmp_path: Path) -> None:
    assert "1 flow, 1 refused" in _query(tmp_path, "--signature", "mining.*")
    assert "1 flow, 0 refused" in _query(tmp_path, "--action", "accept")
    assert "1 flow, 1 refused" in _query(tmp_path, "--agent", "b*", "--dest", "2001:db8::/32")
    assert "3 flows" in _query(tmp_path, "--since", "2026-11-23T15:06", "--until", "2026-11-23T16:07:00+01:00")
    assert "there are older ones" in _query(tmp_path, "--limit", "1")
    assert "No flow matches" in _query(tmp_path, "--since", "2100-01-01")


def test_an_empty_database_says_what_to_do(engine: Engine, tmp_path: Path) -> None:
    assert "Start `egress gateway`" in _query(tmp_path)
    assert json.loads(_query(tmp_path, "-o", "json")) == {"flows": []}
    assert len(_query(tmp_path, "-o", "csv").splitlines()) == 1


def test_programs_get_eve(filled: Engine, tmp_path: Path) -> None:
    listed = json.loads(_query(tmp_path, "-o", "json"))["flows"]
    assert from_eve(listed[0]) == samples.FLOW
    assert [from_eve(each) for each in listed[0]["findings"]] == [samples.FINDING]
    assert len(listed) == 3
    shown = json.loads(_show(tmp_path, samples.FLOW.flow_id, "-o", "json"))
    assert shown["agent"].items() >= listed[0]["agent"].items()  # and the tool call at that time
    assert {**shown, "agent": listed[0]["agent"]}.items() >= listed[0].items()


def test_csv(filled: Engine, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(_query(tmp_path, "-o", "csv", "--agent", "train-1"))))
    assert [row["signatures"] for row in rows] == ["mining.stratum", ""]
    assert rows[1]["end"].endswith("Z") and rows[0]["end"] == ""
    assert (rows[0]["dst"], rows[0]["bytes_out"]) == ("198.51.100.7", "1200")


def test_show_tells_the_whole_story(filled: Engine, tmp_path: Path) -> None:
    told = _show(tmp_path, samples.FLOW.flow_id[:16])
    for part in (
        "reject: a signature matched",
        "10.77.0.2:40000 -> 198.51.100.7:443",
        "mining.stratum  high  T1496.001",
        "A miner logs in to a pool.",
        '0000  7b 22 69 64 22 3a 31 2c  22 6d 65 74 68 6f 64 22  {"id":1,"method"',
        "4 packets, 1.2 kB",
    ):
        assert part in told
    accepted = _show(tmp_path, f"{2:016x}")
    assert "ssh of policy version 1: allow any tcp 22 for * # lab" in accepted
    assert "findings   none" in accepted
    assert "not carried out (monitor mode)" in _show(tmp_path, f"{3:016X}")


def test_show_tells_how_long_a_rule_holds_and_who_wrote_it(engine: Engine, tmp_path: Path) -> None:
    named = Rule(
        "web", Action.ACCEPT, destination="*.example.org", unnamed=True, expires_at=samples.START, author="ops"
    )
    once = Rule("one", Action.ACCEPT, destination="192.0.2.7", once=True)
    _policy(engine, named, once)
    with writing(engine) as connection:
        for number, reason in enumerate((Reason.NAME, Reason.QUERY, Reason.BUDGET)):
            rule = "one" if reason is Reason.BUDGET else "web"
            store(connection, [samples.numbered(number, reason=reason, rule_id=rule)])
    told = [_show(tmp_path, f"{number:016x}") for number in range(3)]
    assert "allow *.example.org also unnamed for * until 2026-11-23 15:06:02.123 UTC by ops" in told[0]
    assert "allow 192.0.2.7 for * once" in told[2]
    assert "is not one the rules allow, or is hidden" in told[0]
    assert "a DNS query for a name that no rule allows" in told[1]
    assert "a budget of the agent is used up" in told[2]


def test_every_reason_is_explained() -> None:
    assert set(story.REASONS) == set(Reason)


def test_csv_has_every_field_of_a_flow() -> None:
    assert set(query._CSV) == set(flow_table.columns.keys())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(15), deadline=None)
@given(text=st.text(st.characters(), max_size=12) | st.just(HOSTILE))
def test_hostile_text_does_not_reach_the_terminal(engine: Engine, tmp_path: Path, text: str) -> None:
    flow = replace(samples.FLOW, agent=text, server_name=text, app_proto=text, src=text, dst=text, rule_id=text)
    finding = replace(samples.FINDING, signature=text, summary=text, technique=text)
    with writing(engine) as connection:
        connection.execute(flow_table.delete())
        connection.execute(finding_table.delete())
        store(connection, [flow, finding])
    outputs = [
        _query(tmp_path),
        _show(tmp_path, flow.flow_id),
        _query(tmp_path, "-o", "csv"),
        _query(tmp_path, "-o", "json"),
    ]
    for output in outputs:
        assert all(line.isprintable() for line in output.split("\n"))
    assert json.loads(outputs[3])["flows"]


def test_markup_is_shown_not_obeyed(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        store(connection, [replace(samples.FLOW, server_name="[red]x[/red]")])
    assert "[red]x[/red]" in _query(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--since", "yesterday"], "is not a valid time"),
        (["--since", "99999999h"], ""),
        (["--until", "2026-13-01"], "is not a valid time"),
        (["--dest", "example.org"], "is not a valid address"),
        (["--limit", "0"], "0"),
        (["--action", "pass"], "pass"),
        (["-o", "xml"], "xml"),
    ],
)
def test_wrong_usage(engine: Engine, tmp_path: Path, arguments: list[str], complaint: str) -> None:
    result = _run(tmp_path, query.command, *arguments)
    assert result.exit_code == (2 if complaint else 0)
    assert complaint in result.output


def test_errors_name_the_next_step(filled: Engine, tmp_path: Path) -> None:
    def said(command: object, *arguments: str) -> EgressError:
        result = _run(tmp_path, command, *arguments)
        assert isinstance(result.exception, EgressError)
        return result.exception

    assert "no flow begins with beef" in str(said(show.command, "beef"))
    assert "give more digits" in str(said(show.command, "0000"))
    wrong = said(show.command, "x'; DROP TABLE flows")
    assert isinstance(wrong, InputError) and "not a valid flow id" in str(wrong)
    (tmp_path / "egress.yaml").write_text(f"state_dir: {tmp_path / 'elsewhere'}\n")
    assert "no database at" in str(said(query.command))
