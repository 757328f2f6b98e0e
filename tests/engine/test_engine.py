"""The engine from packet to verdict: packets that pass, packets that are refused, refusals that no agent can undo."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from egress.limits import Limits
from egress.model import ACK, ICMP, PSH, RST, SYN, Action, Direction, Mode, Reason, Rule
from egress.records.shape import AnomalyRecord, FlowRecord
from tests.traffic import (
    AGENT4,
    AGENT6,
    SERVER4,
    SERVER6,
    START,
    Step,
    Talk,
    agent,
    echo,
    engine,
    ip_packet,
    play,
    tcp,
    udp,
)

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n'
SERVER_HELLO = b"\x16\x03\x03\x00\x04\x02\x00\x00\x00" + bytes(40)
SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
OUT, IN = Direction.OUT, Direction.IN
FAMILIES = [(AGENT4, SERVER4), (AGENT6, SERVER6)]


def allow(**changes: object) -> Rule:
    return Rule(**({"id": "r1", "action": Action.ACCEPT} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("local", "remote"), FAMILIES)
@pytest.mark.parametrize("segment", [1400, 7, 1])
def test_the_segment_that_completes_the_proof_is_refused(local: str, remote: str, segment: int) -> None:
    talk = Talk(local=local, remote=remote).open().client(SUBSCRIBE, segment=segment)
    played = talk.play(engine(), agent())
    assert played.signatures == ["mining.stratum"]
    passed = played.passed(talk.steps)
    assert b"}" not in passed
    refused_from = played.actions.index(Action.REJECT)
    assert set(played.actions[refused_from:]) == {Action.REJECT}
    finding = played.findings[0]
    assert finding.action is Action.REJECT and finding.dst == remote and b"mining.subscribe" in finding.evidence


def test_default_deny_refuses_the_first_packet_and_says_why() -> None:
    played = Talk().open().play(engine(), agent(default=Action.REJECT))
    assert set(played.actions) == {Action.REJECT}
    assert [outcome.verdict.reason for outcome in played.outcomes] == [Reason.DEFAULT] * 3
    (record,) = played.records
    assert isinstance(record, FlowRecord)
    assert (record.src, record.dst, record.dport, record.action) == (AGENT4, SERVER4, 443, Action.REJECT)


def test_a_rule_admits_and_is_named() -> None:
    played = (
        Talk(dport=22)
        .open()
        .client(SSH)
        .play(engine(allow(ports=((22, 22),), app="ssh")), agent(default=Action.REJECT))
    )
    assert set(played.actions) == {Action.ACCEPT}
    assert all(record.rule_id == "r1" for record in played.records if isinstance(record, FlowRecord))


def test_another_application_than_the_rule_says_is_refused_at_the_bytes_that_show_it() -> None:
    talk = Talk(dport=22).open().client(b"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n")
    played = talk.play(engine(allow(app="ssh")), agent(default=Action.REJECT))
    assert played.actions == [Action.ACCEPT] * 3 + [Action.REJECT]
    assert played.outcomes[-1].verdict.reason is Reason.APPLICATION


def test_a_finding_beats_an_allow_rule_unless_it_exempts_the_signature() -> None:
    talk = Talk().open().client(SUBSCRIBE)
    who = agent(default=Action.REJECT)
    assert talk.play(engine(allow()), who).actions[-1] is Action.REJECT
    exempted = talk.play(engine(allow(exempt=("mining.*",))), who)
    assert set(exempted.actions) == {Action.ACCEPT}
    assert [finding.action for finding in exempted.findings] == [Action.ACCEPT]


def test_monitor_mode_lets_pass_and_records_what_it_would_have_done() -> None:
    played = Talk().open().client(SUBSCRIBE).client(b"more").play(engine(), agent(mode=Mode.MONITOR))
    assert set(played.actions) == {Action.ACCEPT}
    assert [finding.action for finding in played.findings] == [Action.REJECT]


def test_a_refusal_is_never_undone_by_more_packets() -> None:
    judge, who = engine(), agent()
    Talk().open().client(SUBSCRIBE).play(judge, who)
    for talk in (Talk().open().client(b"x"), Talk().reset().open(), Talk(isn=77777).close().open().client(b"y")):
        assert set(talk.play(judge, who, START + 5).actions) == {Action.REJECT}


def test_filling_the_table_does_not_make_a_condemned_flow_forgotten() -> None:
    judge, who = engine(limits=Limits(max_flows=50, max_flows_agent=50)), agent()
    Talk().open().client(SUBSCRIBE).play(judge, who)
    for port in range(1000, 1200):
        Talk(sport=port).open().close().play(judge, who, START + 1)
    assert judge.stats()["live_flows"] <= 50
    assert Talk().client(b"x").play(judge, who, START + 2).actions == [Action.REJECT]


def test_a_table_full_of_undecided_flows_refuses_new_ones_and_says_so() -> None:
    judge, who = engine(limits=Limits(max_flows_agent=20)), agent()
    for port in range(1000, 1020):
        Talk(sport=port).open().client(b'{"id"').play(judge, who)
    played = Talk(sport=2000).open().play(judge, who)
    assert Action.ACCEPT not in played.actions
    assert played.outcomes[0].verdict.reason is Reason.MEMCAP
    other = agent(name="b1", networks=("10.77.0.6/32",))
    assert set(Talk(local="10.77.0.6").open().play(judge, other).actions) == {Action.ACCEPT}


def test_bytes_under_inspection_are_bounded_for_each_agent() -> None:
    judge, who = engine(limits=Limits(max_buffered=200_000)), agent()
    refused = 0
    for port in range(1000, 1040):
        talk = Talk(sport=port).open().client(b'{"' + b"a" * 20000)
        refused += Action.REJECT in talk.play(judge, who).actions
        assert judge.stats()["buffered_bytes"] <= 200_000
    assert refused > 0


def test_spoofed_sources_are_dropped_recorded_and_folded() -> None:
    judge, who = engine(), agent()
    raw = tcp("198.51.100.1", SERVER4, 1, 80, SYN, 1, 0)
    played = play(judge, who, [Step(raw, OUT, 0.001)] * 5)
    assert set(played.actions) == {Action.DROP}
    assert all(outcome.verdict.packet_only for outcome in played.outcomes)
    (first,) = played.records
    assert isinstance(first, AnomalyRecord) and first.reason is Reason.SPOOFED and first.src == "198.51.100.1"
    (rest,) = judge.tick(played.end + 2)
    assert isinstance(rest, AnomalyRecord) and rest.count == 4


@pytest.mark.parametrize("raw", [b"", b"\x00", b"E", b"\x45" + bytes(19), b"\x60" + bytes(39), bytes(60)])
def test_malformed_packets_are_dropped_and_counted(raw: bytes) -> None:
    judge = engine()
    outcome = judge.packet(raw, START, agent(), OUT)
    assert outcome.verdict.action is Action.DROP and outcome.verdict.reason is Reason.MALFORMED
    assert judge.stats()["malformed"] == 1


def test_a_fragment_shows_that_nobody_reassembles_and_is_refused() -> None:
    whole = bytearray(udp(AGENT4, SERVER4, 1000, 2000, bytes(64)))
    for bits in (0x2000, 0x2004, 0x0004):
        whole[6:8] = struct.pack("!H", bits)
        outcome = engine().packet(bytes(whole), START, agent(), OUT)
        assert outcome.verdict.action is Action.DROP and outcome.verdict.reason is Reason.MALFORMED


def test_a_cut_packet_of_an_undecided_flow_is_refused_not_trusted() -> None:
    judge, who = engine(), agent()
    Talk().open().play(judge, who)
    raw = tcp(AGENT4, SERVER4, 40000, 443, PSH | ACK, 1001, 900001, b"x" * 1000)
    outcome = judge.packet(raw[:500], START + 1, who, OUT, wire_length=len(raw))
    assert outcome.verdict.reason is Reason.TRUNCATED and outcome.verdict.action is Action.DROP


def test_other_bytes_in_a_retransmission_are_a_finding() -> None:
    talk = Talk().open().client(b"harmless bytes here").raw_client(-19, b"mining.. bytes here")
    played = talk.play(engine(), agent())
    assert played.signatures == ["evasion.tcp-overlap"] and played.actions[-1] is Action.REJECT


def test_bytes_sent_before_the_handshake_is_answered_do_not_pass() -> None:
    judge, who = engine(), agent()
    steps = [
        Step(tcp(AGENT4, SERVER4, 40000, 443, SYN, 1000, 0), OUT, 0.001),
        Step(tcp(AGENT4, SERVER4, 40000, 443, PSH | ACK, 1001, 1, SUBSCRIBE), OUT, 0.001),
    ]
    assert play(judge, who, steps).actions == [Action.ACCEPT, Action.DROP]


def test_a_syn_inside_a_live_connection_cannot_move_the_stream() -> None:
    judge, who = engine(), agent()
    Talk().open().client(SUBSCRIBE[:30]).play(judge, who)
    fake = tcp(AGENT4, SERVER4, 40000, 443, SYN, 5_000_000, 0)
    assert judge.packet(fake, START + 1, who, OUT).verdict.action is Action.DROP
    talk = Talk()
    talk.seq, talk.ack = 1001 + 30, 900001
    assert talk.client(SUBSCRIBE[30:]).play(judge, who, START + 2).signatures == ["mining.stratum"]


def test_a_reset_that_the_server_never_saw_does_not_stop_inspection() -> None:
    talk = Talk().open().client(SUBSCRIBE[:30]).reset().client(SUBSCRIBE[30:])
    assert talk.play(engine(), agent()).signatures == ["mining.stratum"]


def test_a_connection_without_a_beginning_is_picked_up_after_a_start_and_refused_later() -> None:
    judge, who = engine(), agent()
    talk = Talk().client(b"old connection")
    assert talk.play(judge, who).actions == [Action.ACCEPT]
    late = START + Limits().midstream_grace + 1
    played = Talk(sport=2).client(b"half a message").play(judge, who, late)
    assert played.actions == [Action.REJECT] and played.outcomes[0].verdict.reason is Reason.MIDSTREAM
    assert set(Talk(sport=3).open().play(judge, who, late).actions) == {Action.ACCEPT}
    (step,) = Talk(sport=4).client(b"the kernel knows it").steps
    assert judge.packet(step.raw, late, who, OUT, settled=True).verdict.action is Action.ACCEPT
    watched = agent(name="b1", mode=Mode.MONITOR)
    assert Talk(sport=5).client(b"x").play(judge, watched, late).actions == [Action.ACCEPT]


def test_waiting_to_be_forgotten_does_not_split_a_message() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(SUBSCRIBE[:30]).reset()
    talk.play(judge, who)
    late = START + Limits().tcp_closed + Limits().midstream_grace + 1
    judge.tick(late)
    assert judge.stats()["live_flows"] == 0
    rest = Talk()
    rest.seq, rest.ack = talk.seq, talk.ack
    assert rest.client(SUBSCRIBE[30:]).play(judge, who, late).actions == [Action.REJECT]


def test_data_in_the_syn_is_inspected() -> None:
    raw = tcp(AGENT4, SERVER4, 40000, 443, SYN, 1000, 0, SUBSCRIBE)
    played = play(engine(), agent(), [Step(raw, OUT, 0.001)])
    assert played.signatures == ["mining.stratum"] and played.actions == [Action.REJECT]


def test_a_refused_destination_stays_refused_while_it_is_tried() -> None:
    judge, who = engine(only=lambda name: name == "beacon.timing"), agent()
    ts, refused = START, False
    for number in range(60):
        ts += 5.0
        played = Talk(sport=20000 + number).open().close().play(judge, who, ts)
        refused = refused or bool(played.findings)
        if refused and not played.findings:
            assert set(played.actions) == {Action.REJECT}
            assert played.outcomes[0].verdict.reason is Reason.DESTINATION
    assert refused
    other = Talk(remote="203.0.113.77", sport=9).open().play(judge, who, ts)
    assert set(other.actions) == {Action.ACCEPT}


def test_icmp_errors_about_known_flows_come_in_and_no_others() -> None:
    judge, who = engine(), agent(default=Action.ACCEPT)
    syn = tcp(AGENT4, SERVER4, 40000, 443, SYN, 1, 0)
    judge.packet(syn, START, who, OUT)
    for quoted, passes in ((syn[:28], True), (tcp(AGENT4, SERVER4, 40001, 443, SYN, 1, 0)[:28], False)):
        raw = ip_packet("192.0.2.1", AGENT4, ICMP, struct.pack("!BBHL", 3, 4, 0, 0) + quoted)
        strict = agent(default=Action.REJECT)
        outcome = judge.packet(raw, START + 1, strict, IN)
        assert (outcome.verdict.action is Action.ACCEPT) == passes


def test_echo_request_and_reply_are_one_flow() -> None:
    judge, who = engine(), agent()
    play(
        judge,
        who,
        [Step(echo(AGENT4, SERVER4, 7, b"x" * 56), OUT, 0), Step(echo(SERVER4, AGENT4, 7, b"x" * 56, 0), IN, 0)],
    )
    (record,) = judge.shutdown(START + 1)
    assert isinstance(record, FlowRecord)
    assert (record.proto, record.packets_out, record.packets_in) == ("icmp", 1, 1)


def test_connections_from_outside_are_refused_to_a_default_deny_agent() -> None:
    raw = tcp(SERVER4, AGENT4, 5555, 22, SYN, 1, 0)
    outcome = engine(allow()).packet(raw, START, agent(default=Action.REJECT), IN)
    assert outcome.verdict.reason is Reason.INBOUND and outcome.verdict.action is Action.REJECT


def test_counters_and_the_end_of_a_flow() -> None:
    judge, who = engine(), agent()
    talk = Talk().open().client(b"x" * 100).server(b"y" * 50).close()
    played = talk.play(judge, who)
    (record,) = judge.tick(played.end + Limits().tcp_closed + 1)
    assert isinstance(record, FlowRecord)
    assert record.state == "closed" and record.end == pytest.approx(played.end)
    assert (record.packets_out, record.packets_in) == (5, 3)
    assert record.bytes_out == 5 * 40 + 100 and record.bytes_in == 3 * 40 + 50
    assert judge.next_tick() == float("inf") and judge.stats()["live_flows"] == 0


def test_two_agents_are_kept_apart() -> None:
    judge, one, two = engine(), agent(), agent(name="b1")
    Talk().open().client(SUBSCRIBE).play(judge, one)
    assert set(Talk().open().client(b"x").play(judge, two).actions) == {Action.ACCEPT}


def test_addresses_in_records_are_text() -> None:
    played = Talk(local=AGENT6, remote=SERVER6).open().play(engine(), agent())
    (record,) = [each for each in played.records if isinstance(each, FlowRecord)]
    assert str(ip_address(record.src)) == AGENT6 and record.community_id.startswith("1:")
    assert RST  # the flag set is the model's own


def test_udp_is_tracked_and_times_out() -> None:
    judge, who = engine(), agent()
    played = play(judge, who, [Step(udp(AGENT4, SERVER4, 5000, 9999, b"abc"), OUT, 0.0)])
    assert played.actions == [Action.ACCEPT]
    (record,) = judge.tick(START + Limits().udp_timeout + 1)
    assert isinstance(record, FlowRecord) and record.state == "timeout"
