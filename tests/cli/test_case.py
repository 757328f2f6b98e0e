"""`egress replay --into-db` and `--case`: a capture from elsewhere, read by every command that reads records."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import click
import pytest
from alembic import command as alembic
from click.testing import CliRunner, Result
from sqlalchemy.exc import DBAPIError

from egress.cli.input.params import case_option
from egress.cli.main import egress, main
from egress.errors import EgressError
from egress.store.cases.cases import close_case
from egress.store.database.database import alembic_config, open_database, writing
from tests.cli.conftest import Cli
from tests.test_house import ROOT

SCENES = ("stratum-whole-ipv4", "ssh-reverse-443-ipv4", "curl-ipv4", "curl-ipv6")
MINER, SSH, WEB, WEB6 = (str(ROOT / "tests" / "captures" / name / "capture.pcapng") for name in SCENES)
AGENT = "10.99.1.2"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for the cases of the first test that makes them: the others take a copy."""
    return tmp_path_factory.mktemp("incident") / "cases"


@pytest.fixture
def incident(cli: Cli, kept: Path) -> Cli:
    made = cli.directory / "cases"
    if kept.is_dir():
        shutil.copytree(kept, made)
        return cli
    done = cli("replay", "--into-db", "incident", MINER, SSH, WEB)
    assert done.code == 3, done
    assert done.out.endswith("stored in case incident: egress query --case incident\n")
    shutil.copytree(made, kept)
    return cli


def without_config(*words: str) -> Result:
    """Run a command without a config, like a user who is not root and has no /var/lib/egress."""
    return CliRunner().invoke(egress, list(words))


def test_a_replay_says_the_same_whether_it_is_kept_or_not(cli: Cli) -> None:
    for output in ("human", "json"):
        alone = cli("replay", MINER, WEB, "-o", output)
        kept = cli("replay", MINER, WEB, "-o", output, "--into-db", f"case-{output}")
        assert (kept.code, alone.code) == (3, 3)
        assert kept.out.removesuffix(f"stored in case case-{output}: egress query --case case-{output}\n") == alone.out
    assert cli("replay", WEB, "--into-db", "web").code == 0


def test_every_reading_tool_takes_a_case(incident: Cli) -> None:
    assert "3 flows, 2 refused" in incident.ok("query", "--case", "incident").out
    (found,) = map(
        json.loads, incident.ok("query", "--case", "incident", "signature:mining.*", "-o", "jsonl").out.splitlines()
    )
    finding = found["findings"][0]["alert"]["finding_id"]
    assert "mining.stratum" in incident.ok("query", "--case", "incident", "--count-by", "signature").out
    told = incident.ok("show", "flow", found["flow_id"][:8], "--case", "incident").out
    assert f"capture    {MINER}" in told
    assert f"egress evidence {finding[:8]} -w {finding[:8]}.pcapng --case incident" in told
    assert "mining.stratum" in incident.ok("show", "finding", finding, "--case", "incident").out
    assert "flows      3: 1 accepted" in incident.ok("show", "agent", AGENT, "--case", "incident").out
    assert "2 refused" in incident.ok("timeline", "--case", "incident").out
    assert len(incident.ok("observe", "--case", "incident", "-o", "jsonl").out.splitlines()) == 5
    page = incident.directory / "page.html"
    incident.ok("report", "--agent", AGENT, "--case", "incident", "-w", str(page))
    assert "flows begun</th><td>3, 2 of them refused" in page.read_text()
    incident.ok("evidence", finding, "--case", "incident", "-w", str(incident.directory / "out.pcapng"))
    assert "destination: 10.99.2.2" in incident.ok("learn", AGENT, "--case", "incident").out


def test_nothing_of_it_is_in_the_live_database(incident: Cli) -> None:
    assert "No flow is recorded yet" in incident.ok("query").out
    assert incident.ok("policy", "list").err.startswith("there is no version yet")


def test_cases_are_listed_shown_and_deleted(incident: Cli) -> None:
    assert incident("replay", "--into-db", "other", WEB).code == 0
    (incident.directory / "cases" / "broken.db").write_text("this is not a database, and long enough to look at")
    listed = incident.ok("case", "list").out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["broken", "incident", "other"]
    assert "not a database" in listed[1]
    shown = incident.ok("case", "show", "incident").out
    assert "3 flows, 2 findings" in shown and "the opener of each flow is its agent" in shown
    assert shown.count("SHA-256") == 3
    document = incident.ok("case", "show", "incident", "-o", "json").json
    assert [each["file"] for each in document["captures"]] == [MINER, SSH, WEB]
    assert document["begin"].startswith("2026-11-23T16:03:")
    assert "deleted case other" in incident.ok("case", "rm", "other").out
    assert [each["case"] for each in incident.ok("case", "list", "-o", "json").json] == ["broken", "incident"]
    assert "no case other" in incident("query", "--case", "other").err


def test_a_case_is_added_to_and_no_file_is_stored_twice(incident: Cli) -> None:
    again = incident("replay", "--into-db", "incident", MINER)
    assert again.code == 3 and "exists already" in again.err and "nothing is stored twice" in again.err
    assert "1 finding" in again.out, "the capture is judged, although it is not stored again"
    assert incident("replay", "--into-db", "incident", WEB6).code == 0
    assert incident.ok("case", "show", "incident", "-o", "json").json["flows"] == 4
    other = incident("replay", "--into-db", "incident", "--agent-net", "10.0.0.0/8", MINER)
    assert other.code == 1 and "give it another case" in other.err


def test_a_capture_that_breaks_off_is_kept_as_far_as_it_goes(cli: Cli) -> None:
    cut = cli.directory / "cut.pcapng"
    cut.write_bytes(Path(MINER).read_bytes() + bytes.fromhex("0600000040000000 00000000"))
    assert cli("replay", "--into-db", "cut", str(cut)).code == 3
    assert "judged up to there" in cli.ok("case", "show", "cut").out
    assert "mining.stratum" in cli.ok("query", "--case", "cut").out


def test_a_file_that_is_no_capture_stops_nothing(cli: Cli) -> None:
    odd = cli.directory / "odd"
    odd.write_text("nothing to see")
    done = cli("replay", "--into-db", "some", str(odd), WEB)
    assert done.code == 1 and "odd" in done.err
    assert "1 flow, 0 refused" in cli.ok("query", "--case", "some").out
    assert [each["file"] for each in cli.ok("case", "show", "some", "-o", "json").json["captures"]] == [WEB]


def test_what_another_policy_would_have_done(incident: Cli) -> None:
    rules = incident.directory / "rules.yaml"
    rules.write_text("rules:\n- {action: deny, destination: 10.99.2.2, ports: 80}\n")
    done = incident("simulate", str(rules), "--case", "incident")
    assert done.code == 3 and "3 flows: 1 that passed would be refused" in done.out
    assert "1 agent is not attached: judged with default allow" in done.out
    assert incident("simulate", str(rules), "--case", "incident", "--agent", "x*").code == 0
    assert incident("simulate", str(rules), "--case", "incident", "--since", "1h").code == 0
    assert incident("replay", "--into-db", "judged", "--policy", str(rules), WEB).code == 0
    assert "destination: 10.99.2.2" in incident.ok("policy", "show", "--case", "judged").out
    assert "1 that were refused would pass" in incident.ok("policy", "replay", "--version", "0", "--case", "judged").out


def test_without_root_a_case_is_a_file_of_ones_own(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.db")
    assert without_config("replay", "--into-db", path, WEB).exit_code == 0
    assert "1 flow, 0 refused" in without_config("query", "--case", path).output
    assert without_config("policy", "list", "--case", path).exit_code == 0, "any user who can read it may query it"


def test_where_the_state_directory_is_another_s_a_path_is_suggested(cli: Cli) -> None:
    (cli.directory / "cases").write_text("in the way")
    assert "give a path of your own: --into-db ./x.db" in cli("replay", "--into-db", "x", WEB).err


def test_an_api_elsewhere_has_no_cases_of_ours(incident: Cli) -> None:
    done = incident("policy", "list", "--case", "incident", "--api", "http://127.0.0.1:9")
    assert done.code == 2 and "give only one" in done.err


def test_a_name_that_is_empty_is_not_the_live_database(incident: Cli) -> None:
    for words in (["query", "--case", ""], ["replay", "--into-db", "", WEB]):
        result = CliRunner().invoke(egress, [*words, "--config", str(incident.config)])
        assert result.exit_code == 2 or (isinstance(result.exception, EgressError) and result.exception.exit_code == 2)


def test_a_time_outside_the_case_names_its_own(incident: Cli) -> None:
    assert (
        "the case has records from 2026-11-23 16:03:"
        in incident("timeline", "--case", "incident", "--since", "2030-01-01").err
    )


@pytest.mark.parametrize(
    "harm",
    ["names = '{'", "names = '[1, {}]'", "start = 'soon'", "dst = x'ff'", "dport = 'ssh'", "server_name = x'00ff'"],
)
def test_a_case_that_was_tampered_with_is_said_so_in_one_line(incident: Cli, harm: str) -> None:
    path = incident.directory / "cases" / "incident.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE flows SET {harm}")
    for words in (["query"], ["query", "-o", "json"], ["timeline"], ["show", "agent", AGENT], ["learn", AGENT]):
        try:
            done = incident(*words, "--case", "incident")
        except DBAPIError:
            continue  # `main` reports it in one line, as for every database
        assert done.code in (0, 1), (words, done)
        assert not done.code or "case incident holds a value that egress never writes" in done.err, (words, done)


def test_an_error_of_ours_is_not_blamed_on_the_case(incident: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "get_command", lambda *_: command)
    with pytest.raises(TypeError, match="a bug"):
        egress.main(["buggy", "--case", "incident"], standalone_mode=False)


@click.command()
@case_option
def command() -> None:
    """Raise the exception of a bug."""
    raise TypeError("a bug")


def test_what_no_number_can_hold_is_an_error_of_the_case(incident: Cli) -> None:
    with closing(sqlite3.connect(incident.directory / "cases" / "incident.db")) as connection, connection:
        connection.execute("UPDATE flows SET bytes_out = 1e308")
    for words in (["timeline"], ["show", "agent", AGENT]):
        done = incident(*words, "--case", "incident")
        assert done.code == 1 and "case incident holds a value that egress never writes" in done.err, (words, done)


def test_an_error_that_quotes_a_case_moves_no_cursor(
    incident: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(incident.directory / "cases" / "incident.db")) as connection, connection:
        connection.execute("UPDATE flows SET server_name = CAST(x'1b5d303b7a07ff' AS TEXT)")
    config = str(incident.directory / "egress.yaml")
    monkeypatch.setattr(sys, "argv", ["egress", "hunt", "--case", "incident", "--config", config])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 1 and "Could not decode" in told
    assert "\x1b" not in told and "\\x1b]0;z\\x07" in told


def test_commands_that_edit_take_no_case(incident: Cli) -> None:
    for words in (["allow", "example.org"], ["allowlist", "import", "x"], ["agent", "list"]):
        result = CliRunner().invoke(egress, [*words, "--case", "incident"])
        assert result.exit_code == 2 and not isinstance(result.exception, EgressError)
        assert "No such option" in result.output


def test_a_case_of_an_older_egress_is_read_and_stays_as_it_is(incident: Cli) -> None:
    path = incident.directory / "cases" / "incident.db"
    now = incident.ok("query", "--case", "incident", "-o", "json").out
    config = alembic_config()
    engine = open_database(f"sqlite:///{path}", create=False)
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        alembic.downgrade(config, "0009")
    close_case(engine)
    before = path.read_bytes()
    assert incident.ok("query", "--case", "incident", "-o", "json").out == now
    assert incident("timeline", "--case", "incident").code == incident("case", "list").code == 0
    assert "0009, old" in incident("db", "status", "--case", "incident").out
    assert incident("hunt", "--case", "incident", "--dry-run").code in (0, 3)
    refused = incident("hunt", "--case", "incident")
    assert refused.code == 1 and "egress db upgrade --case incident" in refused.err
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]
    assert not list(Path(tempfile.gettempdir()).glob("egress-case-*/incident.db"))
    assert "0010" in incident.ok("db", "upgrade", "--case", "incident").out
    assert incident.ok("query", "--case", "incident", "-o", "json").out == now
    assert incident("hunt", "--case", "incident").code in (0, 3)
