"""`egress replay`: output for people and for scripts, exit codes, errors."""

from __future__ import annotations

import json
import subprocess
import sys
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
        "without_ip": 0,
        "decode_errors": 0,
        "unattributed": 0,
        "anomalies": {},
        "truncated": None,
        "unread": None,
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


ARP = bytes(12) + b"\x08\x06" + bytes(28)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (pcap([(1, 0, bytes(64))] * 9, link=189), "9 frames of link type 189 (USB_LINUX), which cannot be read"),
        (Pcapng().interface(147).enhanced(1).interface(227).enhanced(2, b"x", 1).data,
         "1 frame of link type 147, 1 frame of link type 227 (CAN_SOCKETCAN), which cannot be read"),
        (pcap([(1, 0, b"\x45")] * 3), "3 of 3 frames not decoded (IPv4 header was not captured whole)"),
        (pcap([(1, 0, b"\x08\x40" + bytes(40))], link=105), "1 of 1 frame not decoded (an encrypted 802.11 frame)"),
        (pcap([(1, 0, ARP)] * 2, link=1), "none of 2 frames holds a whole IP packet"),
        (pcap([])[:20], "cut short in the file header"),
    ],
    ids=["usb", "two types", "malformed", "encrypted", "arp", "cut"],
)  # fmt: skip
def test_a_file_of_which_nothing_could_be_read_is_not_one_without_findings(
    content: bytes, why: str, found: Path, tmp_path: Path
) -> None:
    path = tmp_path / "strange.pcap"
    path.write_bytes(content)
    result = run(path)
    assert (result.exit_code, result.stderr) == (1, f"egress: {path}: nothing could be read: {why}\n")
    assert "nothing read" in result.stdout and "nothing found" not in result.stdout
    both = run("-o", "json", path, found)
    assert both.exit_code == 1
    assert [json.loads(line)["unread"] for line in both.stdout.splitlines()] == [why, None]


def test_frames_that_were_left_out_are_named(tmp_path: Path) -> None:
    file = Pcapng().interface(101).interface(189)
    for raw in raws(miner()):
        file.enhanced(1, raw).enhanced(1, b"usb", 1)
    path = tmp_path / "mixed.pcapng"
    path.write_bytes(file.data)
    result = run(path)
    assert result.exit_code == 3
    assert "8 frames of link type 189 (USB_LINUX) could not be read; judged without them" in result.stderr
    assert "16 packets, 1 flow, 8 not decoded, 1 finding" in result.stdout


def test_frames_without_ip_are_counted_apart(tmp_path: Path) -> None:
    path = tmp_path / "arp.pcap"
    path.write_bytes(pcap([(1, 0, ARP), (1, 0, bytes(12) + b"\x08\0" + udp(AGENT4, SERVER4, 1, 7, b"x"))], link=1))
    result = run(path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 packets, 1 flow, 1 without IP, nothing found" in result.stdout


def test_an_empty_capture_has_nothing_to_find(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    path.write_bytes(pcap([]))
    assert run(path).exit_code == 0


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("frames", [8, 5000])
def test_a_pipe_is_judged_like_a_file(name: str, frames: int) -> None:
    idle = [udp(AGENT4, SERVER4, 1, 7, b"x")] * (frames - 8)
    content = pcap([(int(START), 0, raw) for raw in idle + raws(miner())])
    done = subprocess.run(
        [sys.executable, "-m", "egress", "replay", "-o", "json", name], input=content, capture_output=True, check=False
    )
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, b"")
    assert (document["file"], document["packets"], document["truncated"]) == (name, frames, None)
    assert [found["frame"] for found in document["findings"]] == [frames - 4]


def test_a_case_is_not_made_of_a_pipe(tmp_path: Path) -> None:
    result = run("--into-db", tmp_path / "a.db", "-")
    assert result.exit_code == 2 and "can be read again" in result.stderr
    assert not (tmp_path / "a.db").exists()


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
