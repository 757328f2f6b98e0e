"""The transaction that fills our table: order, references, bounds. tests/lab applies it to a real kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Config
from egress.errors import InputError
from egress.gateway.kernel import netlink, table
from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.attachment import Attachment, check
from egress.gateway.kernel.marks import KEPT, VALUES, Marks
from egress.gateway.kernel.nftables import Message

ONE = [Attachment("a", "egr0001", ("10.77.0.6/32", "fd65::2/128"), 7400, 7401, masquerade=True)]
SHARED = [
    Attachment("wide", "br0", ("10.1.0.0/16",), 7400, 7401, masquerade=False),
    Attachment("narrow", "br0", ("10.1.1.0/24", "fd00::/64"), 7400, 7401, masquerade=False),
]


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def rules(found: list[Message], family: int = nft.INET) -> list[tuple[str, bytes]]:
    """The rules of a transaction in order: chain, and its expressions as bytes."""
    parsed = (netlink.attributes(each.body) for each in found if (each.kind, each.family) == (nft.NEWRULE, family))
    return [(text(each[2]), each[4]) for each in parsed]


def chains(found: list[Message]) -> list[str]:
    parsed = [netlink.attributes(each.body) for each in found if (each.kind, each.family) == (nft.NEWCHAIN, nft.INET)]
    return [text(each[3]) for each in parsed]


def made(attachments: list[Attachment], config: Config = Config(), *, blocking: bool = False) -> list[Message]:  # noqa: B008
    return table.messages(attachments, config, blocking=blocking, owned=True)


def test_rules_are_replaced_in_the_same_transaction_and_hooks_stay() -> None:
    found = made(ONE)
    kinds = [each.kind for each in found if each.family == nft.INET]
    assert kinds.index(nft.DELRULE) < kinds.index(nft.NEWRULE) and kinds.count(nft.DELRULE) == 1
    assert kinds.index(nft.DELELEMENT) < kinds.index(nft.NEWELEMENT)
    assert nft.DELTABLE not in kinds and nft.DELCHAIN not in kinds


def test_no_hook_can_come_between_a_verdict_and_the_chain_that_obeys_it() -> None:
    order = chains(made(ONE))
    place = {name: (hook, priority) for name, hook, priority in table.HOOKS}
    for judging in ("forward", "input", "output"):
        assert place[judging] == place[f"{judging}-verdict"]
        assert order.index(f"{judging}-verdict") < order.index(judging)  # the newest of equals comes first


@pytest.mark.parametrize("blocking", [False, True])
def test_the_port_of_the_api_is_refused_before_anything_is_queued(*, blocking: bool) -> None:
    inside = [rule for chain, rule in rules(made(ONE, blocking=blocking)) if chain == "input"]
    port = struct.pack(">H", Config().api.port)
    at = next(index for index, rule in enumerate(inside) if port in rule and b"refuse\0" in rule)
    assert at < next(index for index, rule in enumerate(inside) if b"lookup\0" in rule and b"out\0" in rule)


def test_agents_on_one_interface_share_the_queue_of_the_first() -> None:
    found = made(SHARED)
    assert [name for name in chains(found) if "7400" in name] == ["out-7400", "in-7400"]
    elements = [each.body for each in found if each.kind == nft.NEWELEMENT]
    assert len(elements) == 3 and all(body.count(b"br0\0") == 1 for body in elements)


def test_blocking_queues_nothing_and_keeps_nothing_on_connections() -> None:
    found = made(ONE, blocking=True)
    assert not any(b"NFQUEUE" in rule for _, rule in rules(found))
    assert not any(name.startswith(("out-", "in-")) for name in chains(found))
    verdicts = [each.body for each in found if each.kind == nft.NEWELEMENT and each.family == nft.INET][1:]
    assert len(verdicts) == 2 and all(b"blocked\0" in body for body in verdicts)
    assert [chain for chain, _ in rules(found) if chain == "seen"] and rules(found, nft.ARP)
    assert not [chain for chain, _ in rules(made(ONE)) if chain == "seen"] and not rules(made(ONE), nft.ARP)


def test_fail_open_sets_the_flag_of_each_queue() -> None:
    for fail_open in (False, True):
        infos = [
            rule.split(b"NFQUEUE\0", 1)[1]
            for _, rule in rules(made(ONE, Config(fail_open=fail_open)))
            if b"NFQ" in rule
        ]
        assert len(infos) == 3
        assert all((struct.pack("=HH", 1, int(fail_open)) in info) for info in infos)


def test_a_network_is_masqueraded_once_and_only_where_an_attachment_asks() -> None:
    masquerading = [rule for chain, rule in rules(made([*ONE, *ONE, *SHARED])) if chain == "masquerade"]
    assert len(masquerading) == 2
    assert "masquerade" not in chains(made(SHARED))


@pytest.mark.parametrize("name", ["eth+", "-j", "a b", 'a"b', "a\nb", "!x", "", "abcdefghijklmnop", "é", "a*"])
def test_an_interface_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="rename it"):
        check([Attachment("a", name, (), 1, 2, masquerade=False)])


@pytest.mark.parametrize(("networks", "queue"), [(("10.0.0.1/8",), 1), (("x",), 1), ((), 65536), ((), -1)])
def test_broken_networks_and_queues_are_refused(networks: tuple[str, ...], queue: int) -> None:
    with pytest.raises(InputError):
        made([Attachment("a", "eth0", networks, queue, 2, masquerade=False)])


@given(st.integers(0, 28), st.integers(0, 0xFFFFFFFF))
def test_marks_stay_within_their_bits_and_leave_the_others_alone(shift: int, mark: int) -> None:
    marks = Marks(Config(mark_mask=0xF << shift).mark_mask)
    assert marks.shift == shift
    for name, value in VALUES.items():
        put = marks.put(mark, name)
        assert put & marks.mask == marks.value(name) == value << shift
        assert put & ~marks.mask == mark & ~marks.mask
        assert (marks.value(name) & marks.refusal_mask == marks.value("refused")) == (name in ("refused", "dropped"))
    assert set(KEPT) == VALUES.keys() - {"undecided", "seen"}


attachments = st.lists(
    st.builds(
        Attachment,
        agent=st.sampled_from(["a", "b"]),
        interface=st.sampled_from(["egr0001", "br0", "docker0"]),
        networks=st.lists(st.sampled_from(["10.1.0.0/16", "10.1.1.0/24", "fd00::/64"]), unique=True).map(tuple),
        queue=st.sampled_from([7400, 7402, 65534]),
        settled_queue=st.integers(0, 65535),
        masquerade=st.booleans(),
    ),
    max_size=5,
)


@given(attachments, st.booleans())
def test_every_chain_that_is_jumped_to_exists_and_stale_ones_go(listed: list[Attachment], blocking: bool) -> None:
    stale = ["out-7400", "in-7400", "out-9", "in-9"]
    found = table.messages(listed, Config(), blocking=blocking, owned=False, stale=stale)
    names = chains(found)
    gone = [text(netlink.attributes(each.body)[3]) for each in found if each.kind == nft.DELCHAIN]
    assert not set(gone) & set(names) and {"out-9", "in-9"} <= set(gone)
    for each in found:
        if each.kind in (nft.NEWRULE, nft.NEWELEMENT):
            assert not any(name.encode() + b"\0" in each.body for name in gone)
    encoded = nft.batch(found)
    kinds = [kind & 0xFF for kind, _ in netlink.messages(encoded)]
    assert kinds == [0x10, *(each.kind for each in found), 0x11]
