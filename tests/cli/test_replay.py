"""`egress replay`: output for people and for scripts, exit codes, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egress.cli.replay import command
from tests.capture.files import Pcapng, pcap
from tests.test_replay import miner, raws
from tests.traffic import AGENT4, SERVER4, START, udp


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture
def found(tmp_path: Path) -> Path:
    path = tmp_path / "miner.pcap"
    path.write_bytes(pcap([(int(START), 250_000, raw) for raw in raws(miner())]))
    return path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean.pcap"
    path.write_bytes(pcap([(int(START), 0, udp(AGENT4, SERVER4, 40000, 7, b"hello"))]))
    return path


def test_json_is_one_document_a_file(found: Path, clean: Path) -> None:
    result = run("-o", "json", found, clean)
    assert result.exit_code == 3
    first, second = map(json.loads, result.stdout.splitlines())
    finding = first["findings"][0]
    assert first | {"findings": []} == {
        "file": str(found),
        "packets": 8,
        "flows": 1,
        "decode_errors": 0,
        "unattributed": 0,
        "anomalies": {},
        "truncated": None,
        "findings": [],
        "findings_omitted": 0,
    }
    assert finding["signature"] == "mining.stratum"
    assert finding["flow"] == {"src": AGENT4, "sport": 40000, "dst": SERVER4, "dport": 443, "proto": "tcp"}
    assert finding["frame"] == 4
    assert finding["time"] == "2023-11-14T22:13:20.250000Z"
    assert set(finding) == {"signature", "severity", "flow", "frame", "time", "summary", "evidence"}
    assert (second["flows"], second["findings"]) == (1, [])


def test_people_get_lines(found: Path) -> None:
    result = run(found)
    assert result.exit_code == 3
    assert "8 packets, 1 flow, 1 finding" in result.stdout
    assert f"mining.stratum  {AGENT4}:40000 -> {SERVER4}:443 tcp  frame 4" in result.stdout


def test_nothing_found_is_zero(clean: Path) -> None:
    result = run(clean)
    assert result.exit_code == 0
    assert result.stdout == f"{clean}: 1 packet, 1 flow, nothing found\n"


def test_an_unreadable_file_does_not_hide_the_others(found: Path, tmp_path: Path) -> None:
    result = run("-o", "json", tmp_path / "absent.pcap", found)
    assert result.exit_code == 1
    assert "cannot read" in result.stderr
    assert len(json.loads(result.stdout)["findings"]) == 1


def test_the_name_of_an_unreadable_file_moves_no_cursor(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "\x1b]0;z\x07.pcap")])
    assert result.exit_code == 1 and "\\x1b]0;z\\x07.pcap" in result.output and "\x1b" not in result.output


def test_a_truncated_file_is_judged_as_far_as_it_goes(found: Path) -> None:
    found.write_bytes(found.read_bytes()[:-3])
    result = run("-o", "json", found)
    assert result.exit_code == 3
    assert "cut short in frame 8; judged up to there" in result.stderr
    document = json.loads(result.stdout)
    assert (document["packets"], document["truncated"]) == (7, "cut short in frame 8")


@pytest.mark.parametrize("args", [(), ("--agent-net", "10.77.0.1/8", "x"), ("-o", "xml", "x"), ("--no-such", "x")])
def test_wrong_usage_is_two(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code == 2


def test_agent_net(found: Path) -> None:
    assert run("--agent-net", "10.77.0.0/16", found).exit_code == 3
    result = run("--agent-net", "198.51.100.0/24", found)
    assert result.exit_code == 0
    assert "8 of no agent" in result.stdout


def test_policy(found: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules:\n  - {action: allow, destination: 203.0.113.9, exempt: [mining.stratum]}\n")
    assert run("--policy", policy, found).exit_code == 0


def test_what_an_agent_sent_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    evil = b'{"method":"mining.subscribe","id":1,"params":["\x1b[2J\xc2\x9b\xff\\"]}\n'
    from tests.traffic import Talk

    file = Pcapng().interface()
    for raw in raws(Talk().open().client(evil)):
        file.enhanced(1, raw)
    path = tmp_path / "evil\x1b[31m.pcapng"
    path.write_bytes(file.data)
    for output in ("human", "json"):
        result = run("-o", output, path)
        assert all(char.isprintable() or char == "\n" for char in result.stdout)
        assert result.stdout.isascii() or output == "human"
