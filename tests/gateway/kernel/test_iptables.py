"""The text of the kernel rules, and of changes to them. tests/lab applies it to a real kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Api, Config
from egress.errors import EgressError, InputError
from egress.gateway.kernel import iptables as applied
from egress.gateway.kernel.chains import CHAINS, FILTER, MANGLE, NAT, Attachment, check, rules
from egress.gateway.kernel.marks import VALUES, Marks

ONE = [Attachment("a", "egr0001", ("10.77.0.6/32", "fd65::2/128"), 7400, 7401, masquerade=True)]
SHARED = [
    Attachment("wide", "br0", ("10.1.0.0/16",), 7400, 7401, masquerade=False),
    Attachment("narrow", "br0", ("10.1.1.0/24", "fd00::/64"), 7402, 7403, masquerade=False),
]

GOLDEN = {
    FILTER: """
-A EGRESS-REFUSE -j CONNMARK --save-mark --nfmask 0xf000000 --ctmask 0xf000000
-A EGRESS-REFUSE -m mark --mark 0x3000000/0xf000000 -j DROP
-A EGRESS-REFUSE -j MARK --set-xmark 0x0/0xf000000
-A EGRESS-REFUSE -p tcp -j REJECT --reject-with tcp-reset
-A EGRESS-REFUSE -j REJECT --reject-with icmp-admin-prohibited
-A EGRESS-DELIVER -m mark ! --mark 0x0/0xf000000 -m connmark ! --mark 0x2000000/0xe000000 -j CONNMARK SAVE
-A EGRESS-DELIVER -m mark --mark 0x2000000/0xe000000 -j EGRESS-REFUSE
""".replace("SAVE", "--save-mark --nfmask 0xf000000 --ctmask 0xf000000"),
    NAT: """
-A EGRESS-NAT -s 10.77.0.6/32 ! -o egr0001 -j MASQUERADE
""",
    MANGLE: """
-A EGRESS-FORWARD -i egr0001 -j EGRESS-OUT
-A EGRESS-FORWARD -o egr0001 -j EGRESS-IN
-A EGRESS-INPUT -i egr0001 -p tcp -m tcp --dport 7477 -j MARK --set-xmark 0x2000000/0xf000000
-A EGRESS-INPUT -i egr0001 -p tcp -m tcp --dport 7477 -j RETURN
-A EGRESS-INPUT -i egr0001 -j EGRESS-OUT
-A EGRESS-OUTPUT -o egr0001 -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j EGRESS-IN
-A EGRESS-OUT -j MARK --set-xmark 0x0/0xf000000
-A EGRESS-OUT -m connmark --mark 0x2000000/0xe000000 -j CONNMARK --restore-mark --nfmask 0xf000000 --ctmask 0xf000000
-A EGRESS-OUT -m connmark --mark 0x2000000/0xe000000 -j RETURN
-A EGRESS-OUT -i egr0001 -m connmark --mark 0x1000000/0xf000000 -j NFQUEUE --queue-num 7401
-A EGRESS-OUT -i egr0001 -j NFQUEUE --queue-num 7400
-A EGRESS-IN -j MARK --set-xmark 0x0/0xf000000
-A EGRESS-IN -m connmark --mark 0x2000000/0xe000000 -j CONNMARK --restore-mark --nfmask 0xf000000 --ctmask 0xf000000
-A EGRESS-IN -m connmark --mark 0x2000000/0xe000000 -j RETURN
-A EGRESS-IN -m connmark --mark 0x1000000/0xf000000 -j RETURN
-A EGRESS-IN -o egr0001 -j NFQUEUE --queue-num 7400
-A EGRESS-POSTROUTING -m mark ! --mark 0x0/0xf000000 -m connmark ! --mark 0x2000000/0xe000000 -j CONNMARK SAVE
-A EGRESS-POSTROUTING -m mark --mark 0x2000000/0xe000000 -j DROP
""".replace("SAVE", "--save-mark --nfmask 0xf000000 --ctmask 0xf000000"),
}


def test_the_whole_text_for_one_agent() -> None:
    assert rules(ONE, Config(), 4) == {table: text.strip().splitlines() for table, text in GOLDEN.items()}


def test_ipv6_has_link_upkeep_before_the_queue_and_its_own_refusal() -> None:
    six = rules(ONE, Config(), 6)
    assert any(line.endswith("icmp6-adm-prohibited") for line in six[FILTER])
    entry = [line for line in six[MANGLE] if line.startswith("-A EGRESS-INPUT ")]
    upkeep = [line for line in entry if "icmp6" in line]
    kinds = [int(line.split("--icmpv6-type ")[1].split()[0]) for line in upkeep]
    assert kinds == [133, 135, 136, 143, 131, 132]
    assert all(("--hl-eq 255" in line) != ("-s fe80::/10" in line) and line.endswith("RETURN") for line in upkeep)
    assert entry[-1] == "-A EGRESS-INPUT -i egr0001 -j EGRESS-OUT"


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("api", [Api(), Api(host="10.99.2.1", port=8443), Api(host="")])
def test_the_api_is_refused_to_every_interface_of_agents_before_any_queue(
    api: Api, family: int, blocking: bool
) -> None:
    found = rules([*ONE, *SHARED], Config(api=api), family, blocking=blocking)
    for interface in ("egr0001", "br0"):
        lines = [line for line in found[MANGLE] if line.startswith(f"-A EGRESS-INPUT -i {interface} ")]
        guard = f"-A EGRESS-INPUT -i {interface} -p tcp -m tcp --dport {api.port} -j "
        assert lines[:2] == [f"{guard}MARK --set-xmark 0x2000000/0xf000000", f"{guard}RETURN"]
        assert lines[-1].endswith("-j EGRESS-OUT")
    assert found[FILTER][-1] == "-A EGRESS-DELIVER -m mark --mark 0x2000000/0xe000000 -j EGRESS-REFUSE"


def test_agents_on_one_interface_are_told_apart_longest_prefix_first() -> None:
    lines = [line for line in rules(SHARED, Config(), 4)[MANGLE] if line.startswith("-A EGRESS-IN ") and "NFQ" in line]
    assert lines == [
        "-A EGRESS-IN -o br0 -d 10.1.1.0/24 -j NFQUEUE --queue-num 7402",
        "-A EGRESS-IN -o br0 -d 10.1.0.0/16 -j NFQUEUE --queue-num 7400",
        "-A EGRESS-IN -o br0 -j NFQUEUE --queue-num 7400",
    ]


def test_fail_open_never_tries_another_agents_queue() -> None:
    lines = [line for line in rules(SHARED, Config(fail_open=True), 4)[MANGLE] if "NFQUEUE" in line or "br0" in line]
    assert all(line.endswith("--queue-bypass") for line in lines if "NFQUEUE" in line)
    for index, line in enumerate(lines):
        final = "NFQUEUE" in line and "connmark" not in line
        assert not final or lines[index + 1] == line.split(" -j ")[0] + " -j RETURN"


def test_blocking_queues_nothing_and_keeps_nothing_on_connections() -> None:
    text = "\n".join(line for lines in rules(ONE, Config(), 4, blocking=True).values() for line in lines)
    assert "NFQUEUE" not in text and "--save-mark" not in text and "connmark" not in text
    assert "-A EGRESS-OUT -j MARK --set-xmark 0x2000000/0xf000000" in text
    assert "-A EGRESS-IN -j MARK --set-xmark 0x2000000/0xf000000" in text


@pytest.mark.parametrize("name", ["eth+", "-j", "a b", 'a"b', "a\nb", "!x", "", "abcdefghijklmnop", "é"])
def test_an_interface_name_that_iptables_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="rename it"):
        check([Attachment("a", name, (), 1, 2, masquerade=False)])


@pytest.mark.parametrize(("networks", "queue"), [(("10.0.0.1/8",), 1), (("x",), 1), ((), 65536), ((), -1)])
def test_broken_networks_and_queues_are_refused(networks: tuple[str, ...], queue: int) -> None:
    with pytest.raises(InputError):
        rules([Attachment("a", "eth0", networks, queue, 2, masquerade=False)], Config(), 4)


@given(st.integers(0, 28), st.integers(0, 0xFFFFFFFF))
def test_marks_stay_within_their_bits_and_leave_the_others_alone(shift: int, mark: int) -> None:
    marks = Marks(Config(mark_mask=0xF << shift).mark_mask)
    assert marks.shift == shift
    for name, value in VALUES.items():
        put = marks.put(mark, name)
        assert put & marks.mask == marks.value(name) == value << shift
        assert put & ~marks.mask == mark & ~marks.mask
        assert (marks.value(name) & marks.refusal_mask == marks.value("refused")) == (name in ("refused", "dropped"))


# --- changes: a small iptables-restore --noflush shows their effect --------

State = dict[str, list[str]]


def restore(state: State, text: str) -> State:
    """Apply a restore to a state, as iptables-save prints it. KeyError or ValueError where iptables would refuse it."""
    chains = {table: _by_chain(lines) for table, lines in state.items()}
    table = ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        name, _, rule = rest.partition(" ")
        if word.startswith("*"):
            table = word[1:]
            chains.setdefault(table, {"FORWARD": [], "INPUT": [], "OUTPUT": [], "POSTROUTING": []})
        elif word.startswith(":"):
            chains[table][word[1:]] = []
        elif word == "-A":
            chains[table][name].append(rule)
        elif word == "-I":
            chains[table][name].insert(0, rule.removeprefix("1 "))
        elif word == "-D":
            chains[table][name].remove(rule)
        elif word == "-F":
            chains[table][name].clear()
        elif word == "-X" and (chains[table].pop(name) or any(name in r for rs in chains[table].values() for r in rs)):
            raise ValueError(f"{name} is in use")
    return {table: _lines(found) for table, found in chains.items()}


def _by_chain(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {line[1:].split()[0]: [] for line in lines if line.startswith(":")}
    for line in lines:
        if line.startswith("-A "):
            found[line.split()[1]].append(line.split(" ", 2)[2])
    return found


def _lines(chains: dict[str, list[str]]) -> list[str]:
    return [f":{name} - [0:0]" for name in chains] + [f"-A {name} {rule}" for name in chains for rule in chains[name]]


theirs = st.lists(
    st.tuples(
        st.sampled_from([FILTER, NAT, MANGLE]),
        st.sampled_from(["FORWARD", "INPUT", "OUTPUT", "POSTROUTING"]),
        st.sampled_from(["-j ACCEPT", "-s 10.0.0.0/8 -j DROP", "-i egr0001 -j MARK --set-xmark 0x1/0x1", "-j DOCKER"]),
    ),
    max_size=6,
)
sets = st.lists(
    st.builds(
        Attachment,
        agent=st.sampled_from(["a", "b"]),
        interface=st.sampled_from(["egr0001", "br0", "docker0"]),
        networks=st.lists(st.sampled_from(["10.1.0.0/16", "10.1.1.0/24", "fd00::/64"]), unique=True).map(tuple),
        queue=st.integers(0, 65534),
        settled_queue=st.integers(0, 65534),
        masquerade=st.booleans(),
    ),
    max_size=4,
)


@given(theirs, st.lists(st.tuples(sets, st.booleans(), theirs), max_size=3))
def test_installing_is_idempotent_and_removing_leaves_what_others_have(
    first: list[tuple[str, str, str]], steps: list[tuple[list[Attachment], bool, list[tuple[str, str, str]]]]
) -> None:
    config = Config()
    others = restore({}, "".join(f"*{table}\n-A {chain} {rule}\n" for table, chain, rule in first))
    state = others
    for attachments, blocking, inserted in steps:
        intruders = "".join(f"*{table}\n-I {chain} 1 {rule}\n" for table, chain, rule in inserted)  # before our jumps
        state, others = restore(state, intruders), restore(others, intruders)
        wanted = rules(attachments, config, 4, blocking=blocking)
        state = restore(state, applied.change(state, wanted, config))
        assert applied._in_place(state, config)
        assert restore(state, applied.change(state, wanted, config)) == state
        for table, lines in wanted.items():
            assert [line for line in state[table] if line.startswith("-A EGRESS-")] == sorted(
                lines, key=lambda line: CHAINS[table].index(line.split()[1])
            )
    gone = restore(state, applied.change(state, {}, config))
    assert applied.change(gone, {}, config) == ""
    assert {table: lines for table, lines in gone.items() if table in others} == others
    assert not any("EGRESS-" in line for lines in gone.values() for line in lines)


def test_a_lost_a_doubled_and_a_late_jump_are_noticed() -> None:
    config, wanted = Config(), rules(ONE, Config(), 4)
    good = restore({}, applied.change({}, wanted, config))
    for spoil in ("-D FORWARD -j EGRESS-FORWARD", "-A FORWARD -j EGRESS-FORWARD", "-I FORWARD 1 -j ACCEPT"):
        bad = restore(good, f"*{MANGLE}\n{spoil}\n")
        assert not applied._in_place(bad, config)
        assert applied._in_place(restore(bad, applied.change(bad, wanted, config)), config)


@pytest.mark.parametrize(
    ("complaint", "says"),
    [
        ("Warning: Extension NFQUEUE revision 0 not supported, missing kernel module?", "modprobe xt_NFQUEUE"),
        ("iptables-restore v1.8.9: Couldn't load match `hl':No such file or directory", "modprobe xt_hl"),
        ("RULE_APPEND failed (No such file or directory): rule in chain EGRESS-OUT", "modprobe -a nft_compat"),
        ("Fatal: can't open lock file: Permission denied", "start egress as root"),
        ("something else", "something else"),
    ],
)
def test_complaints_are_explained(complaint: str, says: str) -> None:
    assert says in applied.explain(complaint)


def test_without_iptables_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EgressError, match="iptables-save is not installed: install the package iptables"):
        applied.install(ONE, Config())
