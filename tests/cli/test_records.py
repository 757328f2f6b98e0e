"""The commands that read records, on a real database: query language, counts, timeline, stories, evidence."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.cli.input import queries
from egress.cli.output import csvtext, sparkline
from egress.model import Action, Agent, Budget, BudgetSpan, Measure, Reason, Severity
from egress.records.read import from_eve
from egress.records.times import iso
from egress.store.database.database import writing
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from egress.store.query.search import InvalidQueryError
from egress.store.query.timeline import STEPS, axis
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.cli.running import Run
from tests.examples import examples
from tests.store import samples

SINCE, UNTIL = "2026-11-23T15:00", "2026-11-23T16:00"
SPAN = ("--since", SINCE, "--until", UNTIL)
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\u202e\r\n</pre><script>alert(1)</script>'\"&"
SSH = samples.numbered(
    2, agent="rome-7", dst="203.0.113.9", dport=22, app_proto="ssh", action=Action.ACCEPT, reason=Reason.RULE,
    server_name="", names=("git.example.com",), bytes_out=2_000_000,
)  # fmt: skip
DNS = samples.numbered(3, agent="rome-8", proto="udp", dport=53, server_name="a.example.com", reason=Reason.QUERY)
LATE = samples.numbered(600, agent="rome-7", bytes_out=10)


@pytest.fixture
def run(cli: Cli) -> Run:
    return Run(cli.config)


@pytest.fixture
def filled(database: Engine) -> Engine:
    with writing(database) as connection:
        store(connection, [samples.FLOW, samples.FINDING, samples.ANOMALY, samples.EVIDENCE, SSH, DNS, LATE])
    return database


def _flows(run: Run, *words: str) -> list[int]:
    lines = run("query", *words, "-o", "jsonl").stdout.splitlines()
    return [int(json.loads(line)["flow_id"], 16) for line in lines]


def test_words_are_one_query(filled: Engine, run: Run) -> None:
    assert _flows(run) == [0xA1, 2, 3, 600]
    assert _flows(run, "agent:rome-*", "-proto:udp") == [2, 600]
    assert _flows(run, "agent:rome-*", "bytes>1mb") == [2]
    assert _flows(run, "name:*.example.com", "and", "-(port:22 or port:80)") == [3]
    assert _flows(run, "-(port:22", "or", "port:53)", "--agent", "rome-7") == [600]
    assert _flows(run, "signature:mining.* or port:22", "--until", SINCE) == []
    assert "2 flows" in run("query", "agent:rome-7", "-o", "table").stdout


def test_a_mistake_is_pointed_at(filled: Engine, run: Run) -> None:
    done = run("query", "agent:a", "dest:example.org", code=2)
    assert done.stderr.splitlines()[:2] == ["  agent:a dest:example.org", "               ^"]
    assert isinstance(done.exception, InvalidQueryError) and done.exception.column == 14
    for command in ("timeline", "observe"):
        assert "^" in run(command, "colour:red", code=2).stderr


@given(st.text(max_size=200), st.data())
def test_a_caret_is_one_column_of_what_is_shown(text: str, data: st.DataObject) -> None:
    column = data.draw(st.integers(1, len(text) + 1))
    shown, caret = queries.pointed(text, column)
    assert shown.isprintable() and caret.strip() == "^"
    if text.isascii() and text.isprintable() and len(text) < queries.SHOWN:
        assert shown == f"  {text}" and len(caret) == column + 2


def test_sorted_and_paged(filled: Engine, run: Run) -> None:
    assert _flows(run, "--sort", "bytes") == [600, 3, 0xA1, 2]
    assert _flows(run, "--sort", "-bytes", "--limit", "2") == [3, 600]
    assert _flows(run, "--limit", "1") == [600]
    assert _flows(run, "--limit", "2", "--page", "2") == [0xA1, 2]
    assert _flows(run, "--limit", "2", "--page", "9") == []
    assert "--limit 20 or --page 2" in run("query", "--limit", "2").stdout
    assert "older" not in run("query", "--limit", "2", "--page", "2").stdout
    assert "smaller --page" in run("query", "--page", "2").stdout
    for words in (["--sort", "colour"], ["--sort", "first"], ["--page", "2", "-o", "csv"], ["--count-by", "x"]):
        run("query", *words, code=2)


def test_a_long_table_comes_in_parts(database: Engine, run: Run) -> None:
    with writing(database) as connection:
        store(connection, [samples.numbered(number) for number in range(1001)])
    lines = run("query", "--limit", "5000").stdout.splitlines()
    assert lines[-1] == "1001 flows, 1001 refused" and sum("why" in line for line in lines) == 2
    assert len(_flows(run)) == 1001


def test_counted(filled: Engine, run: Run) -> None:
    lines = run("query", "--count-by", "agent,port").stdout.splitlines()
    assert lines[0].split() == [
        "agent",
        "port",
        "flows",
        "findings",
        "refused",
        "bytes",
        "first",
        "(UTC)",
        "last",
        "(UTC)",
    ]
    assert len(lines) == 5
    found = json.loads(run("query", "agent:rome-7", "--count-by", "agent", "-o", "json").stdout)["counts"]
    assert found == [
        {
            "by": {"agent": "rome-7"}, "flows": 2, "findings": 0, "refused": 1, "bytes": 2_000_610,
            "first": iso(SSH.start), "last": iso(LATE.updated),
        }
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(run("query", "--count-by", "signature,agent", "-o", "csv").stdout)))
    assert [(row["signature"], row["agent"], row["findings"]) for row in rows] == [("mining.stratum", "train-1", "1")]
    assert "--limit 10" in run("query", "--count-by", "name", "--limit", "1").stdout
    assert "No flow matches" in run("query", "agent:nobody", "--count-by", "day").stdout


def test_the_language_is_listed(run: Run) -> None:
    told = run("query", "--fields").stdout
    assert "signature" in told and "bytes_out" in told and "<=" in told


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1"])
def test_a_formula_is_no_formula(text: str) -> None:
    assert str(csvtext.cell(text)).startswith("'")


@given(st.text(max_size=20))
def test_a_cell_is_harmless_and_keeps_its_text(text: str) -> None:
    cell = str(csvtext.cell(text))
    assert cell.isprintable() and not cell.startswith(("=", "+", "-", "@"))
    assert csvtext.cell("example.org") == "example.org" and csvtext.cell(-1) == -1


def test_a_timeline(filled: Engine, run: Run) -> None:
    lines = run("timeline", *SPAN).stdout.splitlines()
    assert lines[0].startswith("2026-11-23 15:00 to 2026-11-23 16:0") and "1m per column" in lines[0]
    flows = lines[lines.index("rome-7") + 1]
    assert flows.count("\u2588") == 2 and flows.endswith("  2")
    assert sum("1 refused" in line and "!" in line for line in lines) == 1
    assert any("mining.stratum 1" in line for line in lines)
    assert lines[-2].strip().startswith("|-----------|") and "11-23 15:00" in lines[-1]
    assert "1 more" not in lines[-1]
    assert "2 more: --limit 3" in run("timeline", "--limit", "1", *SPAN).stdout
    assert run("timeline", *SPAN, charset="ascii").stdout.isascii()
    assert "No flow of that period matches" in run("timeline", "agent:nobody", *SPAN).stdout
    run("timeline", "--since", UNTIL, "--until", SINCE, code=2)
    run("timeline", "--bucket", "1s", *SPAN, code=2)
    run("timeline", "--bucket", "soon", *SPAN, code=2)


def test_a_timeline_for_programs(filled: Engine, run: Run) -> None:
    found = json.loads(run("timeline", "-proto:udp", "--bucket", "10m", "-o", "json", *SPAN).stdout)
    assert (found["bucket_seconds"], found["begin"]) == (600, iso(samples.START)[:14] + "00:00.000000Z")
    rome, train = found["agents"]
    assert rome["flows"] == [1, 1, 0, 0, 0, 0, 0] and rome["bytes"][0] == 2_000_300 and rome["refused"][1] == 1
    assert train["findings"][0] == 1 and train["signatures"] == {"mining.stratum": 1}


@example(1.9999995231628418, 2.0, 20)
@given(samples.times, samples.times, st.integers(20, 200))
def test_an_axis_covers_and_fits(one: float, other: float, most: int) -> None:
    since, until = sorted((one, other))
    shown = axis(since, until, most)
    assert shown.begin <= since and until < shown.end and shown.begin % shown.step == 0
    assert shown.count <= most
    assert shown.step in STEPS or shown.step % STEPS[-1] == 0


@given(st.lists(st.integers(0, 10**12), max_size=50))
def test_bars_show_all_that_is_not_nothing(values: list[int]) -> None:
    for signs in (sparkline.UNICODE, sparkline.ASCII):
        line = sparkline.bars(values, signs)
        assert [sign == " " for sign in line] == [value == 0 for value in values]
        assert not any(values) or line[values.index(max(values))] == signs[-1]


def test_the_story_of_a_flow(filled: Engine, run: Run) -> None:
    told = run("show", "flow", LATE.flow_id).stdout
    assert "nothing was opened in the 60 s before" in told
    with writing(filled) as connection:
        before = [samples.numbered(570 + number, agent="rome-7", dport=number + 1) for number in range(29)]
        store(connection, [*before, replace(samples.FINDING, finding_id="0b", flow_id=before[-1].flow_id)])
    told = run("show", LATE.flow_id).stdout
    assert "the last 20 flows of the 60 s before" in told and "- 2.000 s" in told and "mining.stratum" in told
    assert "git.example.com  (resolved by the agent" in run("show", "flow", SSH.flow_id).stdout
    assert "2 are kept (42 B): egress evidence 00000000 -w" in run("show", samples.FLOW.flow_id).stdout
    document = json.loads(run("show", LATE.flow_id, "-o", "json").stdout)
    assert len(document["before"]) == 20 and document["more_before"] and from_eve(document) == LATE


def test_the_story_of_a_finding(filled: Engine, run: Run) -> None:
    told = run("show", "finding", samples.FINDING.finding_id).stdout
    for part in ("finding    00000000000000f1", '{"id":1,"method"', "2 are kept", "198.51.100.7:443", "no others"):
        assert part in told
    document = json.loads(run("show", "finding", "00000000000000f1", "-o", "json").stdout)
    assert from_eve(document) == samples.FINDING and from_eve(document["flow"]) == samples.FLOW
    assert document["packets"] == {"packets": 2, "bytes": 42, "pruned": False}
    with writing(filled) as connection:
        store(connection, [replace(samples.FINDING, finding_id="ab", flow_id="cd")])
    lonely = run("show", "finding", "ab").stdout
    assert "not recorded" in lonely and "none are kept" in lonely
    assert "no finding begins with ee" in str(run("show", "finding", "ee", code=1).exception)
    run("show", "finding", "x y", code=2)


def test_the_story_of_an_agent(filled: Engine, run: Run) -> None:
    agent = Agent("rome-7", ("10.7.0.2/32",), labels=("gpu",), budgets=(Budget(Measure.BYTES, 10**7, BudgetSpan.HOUR),))
    with writing(filled) as connection:
        add_agent(connection, Actor("uid:0 (root)"), StoredAgent(replace(agent, quarantined=True), "netns", "seven"))
        add_agent(connection, Actor("uid:0 (root)"), StoredAgent(Agent("idle"), "netns", "idle"))
    told = run("show", "agent", "rome-7").stdout
    for part in (
        "netns seven (10.7.0.2/32)", "enforce, default reject", "YES: nothing passes", "bytes=10mb/hour",
        "2: 1 accepted, 1 refused", "tcp 203.0.113.9:22  1 flows, 2.0 MB", "git.example.com", "findings   none",
    ):  # fmt: skip
        assert part in told
    assert "mining.stratum  1 on 1 flows" in run("show", "agent", "train-1").stdout
    assert "attached   no" in run("show", "agent", "train-1").stdout
    assert "nothing is recorded yet" in run("show", "agent", "idle").stdout
    document = json.loads(run("show", "agent", "rome-7", "-o", "json").stdout)
    assert document["attached"]["quarantined"] and document["summary"]["flows"] == 2
    assert document["destinations"][0]["dest"] and len(document["newest"]) == 2
    assert "no agent 'rome-*' is known" in str(run("show", "agent", "rome-*", code=1).exception)


def test_evidence(filled: Engine, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.pcapng"
    assert "2 packets of flow 00000000000000a1" in run("evidence", "00000000000000f", "-w", str(target)).stdout
    assert run("evidence", "0", "-w", "-").stdout_bytes == target.read_bytes()
    assert target.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    with writing(filled) as connection:
        store(connection, [replace(samples.FINDING, finding_id="ab")])
    assert "no packets are kept for finding ab" in str(run("evidence", "ab", "-w", str(target), code=1).exception)
    assert "cannot write" in str(run("evidence", "0", "-w", str(tmp_path), code=1).exception)
    run("evidence", "0", code=2)


def test_tshark_opens_it(filled: Engine, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out.pcapng"
    run("evidence", "0", "-w", str(target))
    done = subprocess.run(["tshark", "-r", target], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(8), deadline=None)
@given(text=st.text(st.characters(), max_size=12) | st.just(HOSTILE))
def test_hostile_text_moves_no_cursor(database: Engine, run: Run, text: str) -> None:
    fields = dict.fromkeys(("server_name", "app_proto", "src", "rule_id", "proto"), text)
    flow = replace(samples.FLOW, **fields, names=(text,), agent="a")  # type: ignore[arg-type]
    found = dict.fromkeys(("signature", "summary", "technique", "proto", "dst"), text)
    finding = replace(samples.FINDING, **found, agent="a", severity=Severity.CRITICAL)  # type: ignore[arg-type]
    with writing(database) as connection:
        store(connection, [flow, finding, replace(samples.ANOMALY, detail=text, src=text)])
    for words in (
        ("query", "--count-by", "signature,name,app,proto,rule,dest"),
        ("query", "--count-by", "name,app,proto,rule", "-o", "csv"),
        ("timeline", *SPAN),
        ("show", "finding", "00000000000000f1"),
        ("show", "agent", "a"),
        ("observe",),
        ("observe", "-o", "jsonl"),
    ):
        output = run(*words).stdout
        assert output and all(line.isprintable() for line in output.split("\n")), words
