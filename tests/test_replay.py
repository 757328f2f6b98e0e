"""Replay: the agent of a flow, the frame of a finding, and captures that are old, odd or broken."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egress import replay as module
from egress.errors import EgressError
from egress.model import ACK, FIN, RST, SYN, TCP, Action, Direction, Mode, Policy, Rule
from egress.records.shape import FlowRecord, Record
from egress.replay import Agents, Report, replay
from egress.wire.packet import decode
from tests import traffic
from tests.capture.files import Pcapng, pcap
from tests.examples import examples
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, START, Talk, echo, ip_packet, tcp, udp

LOGIN = b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4x","pass":"x","agent":"XMRig/6"}}\n'
NO_RULES = Policy()


def raws(talk: Talk) -> list[bytes]:
    return [step.raw for step in talk.steps]


def judge(path: Path, packets: list[bytes], *args: object, step: int = 1, link: int = 101, extra: int = 0) -> Report:
    """Replay packets, one every `step` seconds."""
    path = path / "a.pcap"
    path.write_bytes(pcap([(int(START) + i * step, 0, raw) for i, raw in enumerate(packets)], link=link, extra=extra))
    return replay(path, *(args or (NO_RULES,)))  # type: ignore[arg-type]


def miner() -> Talk:
    return Talk().open().client(LOGIN).server(b'{"id":1,"result":{"status":"OK"}}\n').close()


# --- The agent of a flow -------------------------------------------------------------------------------------


def sees(agents: Agents, raw: bytes) -> tuple[str, Direction]:
    agent, direction = agents.attribute(decode(raw)) or pytest.fail("no agent")
    return agent.name, direction


def test_the_opener_is_the_agent() -> None:
    agents = Agents()
    seen = [sees(agents, raw) for raw in raws(miner())]
    assert {name for name, _ in seen} == {AGENT4}
    assert [direction for _, direction in seen[:3]] == [Direction.OUT, Direction.IN, Direction.OUT]


def test_agents_of_a_replay_are_allowed_and_monitored() -> None:
    agent, _ = Agents().attribute(decode(raws(miner())[0])) or pytest.fail("no agent")
    assert (agent.default, agent.mode, agent.networks) == (Action.ACCEPT, Mode.MONITOR, (AGENT4,))


@pytest.mark.parametrize(("sport", "dport", "opener"), [(40000, 22, AGENT4), (22, 40000, SERVER4), (7, 7, AGENT4)])
def test_in_mid_stream_the_lower_port_serves(sport: int, dport: int, opener: str) -> None:
    assert sees(Agents(), tcp(AGENT4, SERVER4, sport, dport, ACK, 1, 1, b"x"))[0] == opener


def test_an_answer_shows_the_opener() -> None:
    agents = Agents()
    assert sees(agents, tcp(SERVER4, AGENT4, 40000, 22, SYN | ACK, 1, 1)) == (AGENT4, Direction.IN)
    assert sees(agents, udp(SERVER4, AGENT4, 53, 40000, b"answer")) == (AGENT4, Direction.IN)
    assert sees(agents, udp(AGENT4, SERVER4, 50000, 40000, b"first")) == (AGENT4, Direction.OUT)
    assert sees(agents, echo(SERVER4, AGENT4, 9, b"", kind=0)) == (AGENT4, Direction.IN)
    assert sees(agents, echo(AGENT4, SERVER4, 9, b"", kind=8)) == (AGENT4, Direction.OUT)


def test_an_opening_corrects_a_guess_and_a_closed_flow_may_be_reversed() -> None:
    agents = Agents()
    assert sees(agents, tcp(AGENT4, SERVER4, 22, 40000, ACK, 1, 1))[0] == SERVER4
    assert sees(agents, tcp(AGENT4, SERVER4, 22, 40000, SYN, 1, 1))[0] == AGENT4
    assert sees(agents, tcp(SERVER4, AGENT4, 40000, 22, SYN, 1, 1))[0] == AGENT4  # a simultaneous open changes nothing
    for end in (FIN | ACK, RST):
        sees(agents, tcp(AGENT4, SERVER4, 22, 40000, end, 1, 1))
        opener = SERVER4 if end & FIN else AGENT4
        assert sees(agents, tcp(opener, AGENT4 if end & FIN else SERVER4, *_ports(opener), SYN, 1, 1))[0] == opener


def _ports(opener: str) -> tuple[int, int]:
    return (22, 40000) if opener == AGENT4 else (40000, 22)


def test_both_ends_on_one_address() -> None:
    """Only the ports distinguish the two ends in a capture of the loopback interface."""
    agents = Agents()
    seen = [sees(agents, raw) for raw in raws(Talk(local="127.0.0.1", remote="127.0.0.1").open().server(b"hello"))]
    assert seen == [("127.0.0.1", way) for way in (Direction.OUT, Direction.IN, Direction.OUT, Direction.IN)]


def test_networks_name_the_agents() -> None:
    agents = Agents([ip_network("10.77.0.0/16"), ip_network("fd65:6772:6573::/48")])
    assert sees(agents, tcp(SERVER4, AGENT4, 1, 2, SYN, 1, 1)) == (AGENT4, Direction.IN)
    assert sees(agents, tcp(AGENT6, SERVER6, 1, 2, SYN, 1, 1)) == (AGENT6, Direction.OUT)
    assert sees(agents, tcp("10.77.0.9", AGENT4, 1, 2, SYN, 1, 1)) == ("10.77.0.9", Direction.OUT)
    assert sees(agents, tcp(AGENT4, "10.77.0.9", 2, 1, SYN | ACK, 1, 1)) == ("10.77.0.9", Direction.IN)
    assert agents.attribute(decode(tcp(SERVER4, "192.0.2.1", 1, 2, SYN, 1, 1))) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FLOWS", 100)
    monkeypatch.setattr(module, "MAX_AGENTS", 50)
    agents = Agents()
    for number in range(1000):
        sees(agents, udp(f"10.0.{number >> 8}.{number & 255}", SERVER4, 1, 2, b""))
    assert len(agents._openers) == 100
    assert len(agents._agents) == 50
    assert sees(agents, udp("10.0.0.1", SERVER4, 1, 2, b""))[0] == "10.0.0.1"
    assert sees(agents, udp("10.9.9.9", SERVER4, 1, 2, b""))[0] == "others"


# --- Findings ----------------------------------------------------------------------------------------


def test_a_finding_names_the_frame_that_proved_it(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(miner()))
    assert (report.packets, report.flows, report.decode_errors, report.truncated) == (8, 1, 0, "")
    (found,) = report.findings
    assert (found.record.signature, found.frame, found.time) == ("mining.stratum", 4, START + 3)
    assert (found.record.src, found.record.dst, found.record.dport) == (AGENT4, SERVER4, 443)


def test_one_byte_segments_are_proved_later(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(Talk().open().client(LOGIN, segment=1)), step=0)
    (found,) = report.findings
    assert 4 < found.frame <= 3 + len(LOGIN)


def test_in_mid_stream(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(miner())[3:])
    assert [found.record.signature for found in report.findings] == ["mining.stratum"]


def test_monitored_flows_are_looked_at_to_the_end(tmp_path: Path) -> None:
    talk = Talk(dport=2222).open().client(b"SSH-2.0-OpenSSH_9.2\r\n").client(LOGIN)
    assert "ssh.unusual-port" in {found.record.signature for found in judge(tmp_path, raws(talk)).findings}


def test_an_empty_capture_has_no_findings(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(Talk().open().client(b"hello").server(b"hello").close()))
    assert report.findings == []
    assert report.flows == 1


def test_a_policy_may_silence_a_signature(tmp_path: Path) -> None:
    rule = Rule("r1", Action.ACCEPT, destination=f"{SERVER4}/32", exempt=("mining.*",))
    assert judge(tmp_path, raws(miner()), Policy(1, (rule,))).findings == []


def test_only_agents_are_judged(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(miner()), NO_RULES, [ip_network("198.51.100.0/24")])
    assert (report.packets, report.flows, report.unattributed, report.findings) == (8, 0, 8, [])


# --- Odd and broken captures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [101, 1, 113])
def test_on_any_link(tmp_path: Path, link: int) -> None:
    head = {101: b"", 1: bytes(12) + b"\x08\x00", 113: bytes(14) + b"\x08\x00"}[link]
    report = judge(tmp_path, [head + raw + bytes(6) for raw in raws(miner())], link=link)
    assert [found.frame for found in report.findings] == [4]


def test_fragments_are_put_together(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, fragment

    packets = raws(miner())
    fragments = [bytes(piece) for piece in fragment(IP(packets[3][:6] + b"\0\0" + packets[3][8:]), 48)]
    assert len(fragments) == 3
    report = judge(tmp_path, packets[:3] + fragments[::-1] + packets[4:])
    assert [(found.record.signature, found.frame) for found in report.findings] == [("mining.stratum", 6)]
    assert report.decode_errors == 0


def test_time_that_runs_backwards(tmp_path: Path) -> None:
    report = judge(tmp_path, raws(miner()), step=-1000)
    assert [found.frame for found in report.findings] == [4]
    assert report.findings[0].time == START - 3000


def beats(start: float = START, count: int = 12) -> list[tuple[int, int, bytes]]:
    """Build the frames of a beacon: one connection every ten seconds."""
    frames = []
    for number in range(count):
        talk = Talk(sport=41000 + number).open().client(b"ping").server(b"pong").close()
        frames += [(int(start) + 10 * number, at * 1000, raw) for at, raw in enumerate(raws(talk))]
    return frames


def told(path: Path, frames: list[tuple[int, int, bytes]]) -> list[tuple[str, float]]:
    path = path / "a.pcap"
    path.write_bytes(pcap(frames))
    return [(found.record.signature, found.record.time) for found in replay(path, NO_RULES).findings]


def other(ts: float) -> list[tuple[int, int, bytes]]:
    return [(int(ts), 0, udp(AGENT4, "203.0.113.77", 5, 5000, b"x"))]


@pytest.mark.parametrize("at", [0, 1, 30, 84])
@pytest.mark.parametrize("wrong", [0, START - 1e6, START + 1e6, 4_294_967_000])
def test_a_frame_with_a_wrong_time_changes_no_finding(tmp_path: Path, at: int, wrong: float) -> None:
    frames = beats()
    control = told(tmp_path, frames)
    assert [signature for signature, _ in control] == ["beacon.timing"]
    assert told(tmp_path, frames[:at] + other(wrong) + frames[at:]) == control


def test_files_appended_in_the_wrong_order(tmp_path: Path) -> None:
    first, second = beats(), beats(START + 5000)
    for frames in (first + second, second + first):
        assert [signature for signature, _ in told(tmp_path, frames)] == ["beacon.timing"] * 2


def test_a_beacon_that_two_files_share_is_found_in_either_order(tmp_path: Path) -> None:
    first, second = beats(count=5), beats(START + 50, count=5)
    for frames in (first + second, beats(START + 5000, 5) + first):
        assert [signature for signature, _ in told(tmp_path, frames)] == ["beacon.timing"]


def test_fragments_of_an_earlier_time_are_put_together(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, fragment

    packets = raws(miner())
    pieces = [bytes(piece) for piece in fragment(IP(packets[3][:6] + b"\0\0" + packets[3][8:]), 48)]
    path = tmp_path / "a.pcap"
    earlier = [(int(START) - 90_000, at, raw) for at, raw in enumerate(packets[:3] + pieces + packets[4:])]
    path.write_bytes(pcap([(int(START), 0, pieces[0]), *earlier]))
    assert [found.record.signature for found in replay(path, NO_RULES).findings] == ["mining.stratum"]


def test_flows_years_apart(tmp_path: Path) -> None:
    times = [(year * 31_536_000 + second, 0, raw) for year in range(3) for second, raw in enumerate(raws(miner()))]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(times))
    report = replay(path, NO_RULES)
    assert report.flows == 3
    assert [found.frame for found in report.findings] == [4, 12, 20]


def test_many_flows_that_end_in_one_gap_end_before_the_next_packet(tmp_path: Path) -> None:
    flows = [udp(AGENT4, SERVER4, 20000 + port, 5300, b"a") for port in range(350)]
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([*((1, 0, raw) for raw in flows), (100_000, 0, flows[0])]))
    records: list[Record] = []
    assert replay(path, NO_RULES, keep=records.extend).flows == 351
    ends = [record.state for record in records if isinstance(record, FlowRecord) and record.end is not None]
    assert ends == ["timeout"] * 350 + ["shutdown"]


@pytest.mark.parametrize("resolution", [b"\x00", b"\x7f", b"\xff"])
def test_impossible_clocks(tmp_path: Path, resolution: bytes) -> None:
    offset = struct.pack("<q", -(2**63))
    file = Pcapng().interface(101, 0, (9, resolution)).interface(101, 0, (14, offset))
    for raw in raws(miner()):
        file.enhanced(2**64 - 1, raw).enhanced(0, raw, 1)
    (tmp_path / "a.pcapng").write_bytes(file.data)
    report = replay(tmp_path / "a.pcapng", NO_RULES)
    assert (report.packets, report.truncated) == (16, "")
    assert "mining.stratum" in {found.record.signature for found in report.findings}


def test_malformed_frames_are_counted(tmp_path: Path) -> None:
    report = judge(tmp_path, [b"", b"\x45", ip_packet(AGENT4, SERVER4, TCP, b"short"), *raws(miner())])
    assert (report.packets, report.decode_errors, report.flows) == (11, 3, 1)


def test_a_short_snap_length_is_not_an_error(tmp_path: Path) -> None:
    report = judge(tmp_path, [raw[:60] for raw in raws(miner())], extra=100)
    assert report.decode_errors == 0
    assert report.flows == 1


def test_packets_without_a_flow_are_counted(tmp_path: Path) -> None:
    talk = raws(Talk().open())
    again = tcp(AGENT4, SERVER4, 40000, 443, SYN, 77, 0)  # a SYN inside a live connection
    report = judge(tmp_path, [*talk, again])
    assert sum(report.anomalies.values()) == 1
    assert report.flows == 1


def test_other_protocols(tmp_path: Path) -> None:
    packets = [echo(AGENT4, SERVER4, 1, b"x"), echo(SERVER4, AGENT4, 1, b"x", kind=0), udp(AGENT6, SERVER6, 1, 2, b"x")]
    packets.append(ip_packet(AGENT4, SERVER4, 47, bytes(8)))
    report = judge(tmp_path, packets)
    assert (report.flows, report.decode_errors) == (3, 0)


@pytest.mark.slow
def test_cut_at_every_byte(tmp_path: Path) -> None:
    whole = pcap([(1, 0, raw) for raw in raws(miner())])
    path = tmp_path / "a.pcap"
    previous = 0
    for size in range(24, len(whole), 7):
        path.write_bytes(whole[:size])
        report = replay(path, NO_RULES)
        assert report.packets >= previous
        assert len(report.findings) == (report.packets >= 4)
        previous = report.packets


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"no capture"])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(content)
    with pytest.raises(EgressError, match="the file"):
        replay(path, NO_RULES)
    with pytest.raises(EgressError, match="cannot read"):
        replay(tmp_path, NO_RULES)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated(tmp_path: Path, data: st.DataObject) -> None:
    talk = raws(miner()) + raws(Talk(local=AGENT6, remote=SERVER6).open().client(b"SSH-2.0-x\r\n"))
    file = bytearray(pcap([(index, 0, raw) for index, raw in enumerate(talk)]))
    for _ in range(data.draw(st.integers(1, 30))):
        file[data.draw(st.integers(24, len(file) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.pcap").write_bytes(bytes(file))
    report = replay(tmp_path / "a.pcap", NO_RULES)
    assert report.decode_errors <= report.packets <= len(file) // 16
    assert report.packets >= 1 or report.truncated


def test_equal_input_gives_equal_findings(tmp_path: Path) -> None:
    assert judge(tmp_path, raws(miner())) == judge(tmp_path, raws(miner()))


def test_findings_are_those_of_the_engine(tmp_path: Path) -> None:
    """A replay gives the findings that the engine gives for the same packets."""
    talk = miner()
    straight = talk.play(traffic.engine(), traffic.agent(name=AGENT4, mode=Mode.MONITOR))
    assert straight.signatures == [found.record.signature for found in judge(tmp_path, raws(talk)).findings]


def test_progress_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([(0, 0, udp(AGENT4, SERVER4, 1, 2, b"x"))] * 3000))
    told: list[int] = []
    replay(path, NO_RULES, progress=told.append)
    assert len(told) == 2
    assert told == sorted(told)
    assert told[-1] <= path.stat().st_size
