"""The content of our nftables tables, `inet egress` and `arp egress`. Pure; `egress.gateway.kernel.guard` applies it.

How a packet travels (forward: through the gateway; input: to the gateway host itself; output: the host's answers):

| hook        | our chain        | what happens                                                                      |
|-------------|------------------|-----------------------------------------------------------------------------------|
| prerouting, | seen             | only while agents are blocked. From an agent: mark SEEN, so that the barrier      |
| ARP input   |                  | (`barrier.py`) lets it come as far as a refusal by these chains                   |
| forward     | forward          | from an agent: the chain `out-N` of its queue; to one: `in-N`                     |
| input       | input            | from an agent: `out-N`, except IPv6 link upkeep; to the API's port: `refuse`      |
| output      | output           | answers to an agent's connection: `in-N`                                          |
|             | out-N            | our bits zeroed; refused connection: `known`; settled connection: settled queue   |
|             |                  | N+1; all others: full-depth queue N                                               |
|             | in-N             | the same, but replies of a settled connection are not queued                      |
| (a worker)  |                  | verdict ACCEPT with a packet mark; the rest of the chain is skipped               |
| forward,    | forward-verdict, | next at the same hook: obey the mark (chain `obey`). Refused or dropped: keep it  |
| input,      | input-verdict,   | on the connection; TCP reset, ICMP administratively prohibited, or silence.       |
| output      | output-verdict   | Others: keep it on the connection, zero our bits, and let the packet go on        |
| postrouting | masquerade       | masquerade where an attachment asks for it                                        |

Between the worker's verdict and the chain that obeys it no other program's rule can run: both chains have the same
priority, the judging one was made last, and the kernel puts the newest of equals first. A hook that is added later at
this priority comes before both. After that no packet carries our bits, so that no routing rule, queueing discipline
or rule of another program meets them; bits that others set there before are lost. An ACCEPT in another table does not
skip ours.

Only interface and address identify an agent. An interface with an agent on it belongs to agents; all of them have the
same worker, which refuses a packet that has the address of none as spoofed. A later verdict never overwrites a
connection's refusal. The sender's worker judges a packet from one agent to another. Link upkeep is ICMPv6 neighbour
discovery with hop limit 255 (RFC 4861 section 11.2: it cannot come from off-link) and MLD reports from a link-local
address (RFC 2710, RFC 3810); without it the agent has no link. Frames that a bridge passes between two of its own ports
are not routed and come here only where br_netfilter hands them over.

Of the host's packets to an agent, only true answers are queued: ESTABLISHED and in the direction REPLY. Not queued are
the host's own connections (ORIGINAL), link upkeep (untracked), and the resets and ICMP errors that the kernel makes
(RELATED): those for our refusals belong to an unconfirmed connection, which a queue would drop.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Iterator, Sequence

from egress.config import Config
from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.attachment import Attachment, check
from egress.gateway.kernel.marks import Marks
from egress.gateway.kernel.nftables import Expression, Message

NAME = "egress"
AGENTS, OUT, IN = "agents", "out", "in"  # the set of interfaces; maps of them to the chains of their queues
COUNTERS = ("rejected", "dropped", "unqueued", "api")
FIXED = ("refuse", "blocked", "known", "obey")
BEFORE_MANGLE = -155  # NF_IP_PRI_MANGLE is -150, connection tracking -200
LAST = 0x7FFFFFFF  # in prerouting: after every program that writes marks there
BEFORE_SOURCE_NAT = 99  # NF_IP_PRI_NAT_SRC is 100
# A verdict chain before the judging chain of its hook: see the module's docstring.
HOOKS = (
    ("seen", nft.PREROUTING, LAST),
    ("forward-verdict", nft.FORWARD, BEFORE_MANGLE),
    ("forward", nft.FORWARD, BEFORE_MANGLE),
    ("input-verdict", nft.INPUT, BEFORE_MANGLE),
    ("input", nft.INPUT, BEFORE_MANGLE),
    ("output-verdict", nft.OUTPUT, BEFORE_MANGLE),
    ("output", nft.OUTPUT, BEFORE_MANGLE),
)
_MASQUERADE = "masquerade"
_LINK_LOCAL = bytes((0xFE, 0x80)), bytes((0xFF, 0xC0))  # fe80::/10
_IPV6, _TCP, _ICMPV6 = b"\x0a", b"\x06", b"\x3a"  # NFPROTO_IPV6, IPPROTO_*


def interfaces(attachments: Sequence[Attachment]) -> dict[str, Attachment]:
    """Map each interface to its first attachment, whose queues get all packets of the interface."""
    found: dict[str, Attachment] = {}
    for attachment in attachments:
        found.setdefault(attachment.interface, attachment)
    return found


def messages(
    attachments: Sequence[Attachment], config: Config, *, blocking: bool, owned: bool, stale: Sequence[str] = ()
) -> list[Message]:
    """Make the transaction after which the tables hold exactly the rules for these attachments. Raises InputError.

    `blocking`: refuse packets of new connections from and to agents instead of queueing them, and drop those of
    established connections without an answer. It keeps no mark on connections: they are judged anew once the gateway is
    back. `owned`: see `nftables.table`. `stale`: queues' chains in the table, deleted if no attachment needs them.
    Chains at hooks are never deleted: the kernel would drop all queued packets.
    """
    check(attachments)
    place, marks = interfaces(attachments), Marks(config.mark_mask)
    queues = {} if blocking else {each.queue: each.settled_queue for each in place.values()}
    chains = [f"{side}-{queue}" for queue in queues for side in (OUT, IN)]
    found = [nft.table(NAME, owned=owned), *(nft.counter(NAME, name) for name in COUNTERS)]
    found += [nft.interfaces(NAME, name, at, verdicts=name != AGENTS) for at, name in enumerate((AGENTS, OUT, IN), 1)]
    found += [nft.chain(NAME, name) for name in (*FIXED, *chains)]
    found += [nft.base_chain(NAME, *hook) for hook in HOOKS]
    if nat := list(_masquerade(attachments)):
        found.append(nft.base_chain(NAME, _MASQUERADE, nft.POSTROUTING, BEFORE_SOURCE_NAT, "nat"))
    found += [nft.no_rules(NAME), *(nft.no_elements(NAME, name) for name in (AGENTS, OUT, IN))]
    found += [nft.no_chain(NAME, name) for name in stale if name not in chains]
    found += [nft.rule(NAME, chain, *rule) for chain, rule in [*_fixed(marks), *_hooks(marks, config), *nat]]
    for queue, settled in queues.items():
        judging = _judge(queue, settled, marks, bypass=config.fail_open)
        found += [nft.rule(NAME, chain, *rule) for chain, rule in judging]
    found += _arp(marks, place if blocking else {}, owned=owned)
    if blocking:
        found.append(nft.rule(NAME, "seen", *_seen(marks)))
    if place:
        found.append(nft.elements(NAME, AGENTS, dict.fromkeys(place)))
        for side in (OUT, IN):
            to = {
                name: nft.target(nft.JUMP, "blocked" if blocking else f"{side}-{each.queue}")
                for name, each in place.items()
            }
            found.append(nft.elements(NAME, side, dict(to)))
    return found


_Rule = tuple[str, list[Expression]]


def _fixed(marks: Marks) -> Iterator[_Rule]:
    """Make the rules of the chains in FIXED, which refuse packets and obey the worker's marks.

    The mark is zeroed before a refusal: with sysctl fwmark_reflect the reset would carry it.
    """
    zero = _put(marks, 0)
    yield "refuse", [*zero, nft.count("rejected")]
    yield "refuse", [nft.meta(nft.L4PROTO), nft.equal(_TCP), nft.reset()]
    yield "refuse", [nft.prohibited()]
    dropped = [nft.count("dropped"), nft.verdict(nft.DROP)]
    living = [nft.ct(nft.CT_STATE), nft.bits(nft.ESTABLISHED), nft.equal32(0, unlike=True)]
    yield "blocked", [*living, nft.count("dropped"), nft.verdict(nft.DROP)]  # in silence: TCP goes on later
    yield "blocked", [nft.verdict(nft.GOTO, "refuse")]
    yield "known", [nft.count("unqueued")]
    yield "known", [*_kept(marks, "dropped"), *dropped]
    yield "known", [nft.verdict(nft.GOTO, "refuse")]
    yield "obey", [*_marked(marks, 0), nft.verdict(nft.RETURN)]
    yield "obey", [*_marked(marks, marks.value("refused")), *_keep(marks, "refused"), nft.verdict(nft.GOTO, "refuse")]
    yield "obey", [*_marked(marks, marks.value("dropped")), *_keep(marks, "dropped"), *dropped]
    for name in ("settled", "recheck"):
        refused = [nft.ct(nft.CT_MARK), nft.bits(marks.refusal_mask)]
        unless = nft.equal32(marks.value("refused"), unlike=True)
        yield "obey", [*_marked(marks, marks.value(name)), *refused, unless, *_keep(marks, name)]
    yield "obey", zero


def removal() -> list[Message]:
    """Make the messages that delete the two tables; each fails with ENOENT if its table is absent."""
    return [nft.no_table(NAME), nft.no_table(NAME).arp()]


def _hooks(marks: Marks, config: Config) -> Iterator[_Rule]:
    """Make the rules of the chains at hooks."""
    sent, got = [nft.meta(nft.IIFNAME)], [nft.meta(nft.OIFNAME)]
    agent, obey = nft.within(AGENTS), nft.verdict(nft.JUMP, "obey")
    answer = [nft.ct(nft.CT_STATE), nft.bits(nft.ESTABLISHED), nft.equal32(0, unlike=True)]
    answer += [nft.ct(nft.CT_DIRECTION), nft.equal(bytes((nft.REPLY,)))]
    yield "forward", [*sent, nft.chosen(OUT)]
    yield "forward", [*got, nft.chosen(IN)]
    yield "forward-verdict", [*sent, agent, obey]
    yield "forward-verdict", [*got, agent, obey]
    yield "input", [*sent, agent, *_put(marks, 0)]
    # No agent reaches the API, on any address of the host; no policy can change that.
    port = nft.payload(nft.TRANSPORT, 2, 2), nft.equal(struct.pack(">H", config.api.port))
    to_api = [nft.meta(nft.L4PROTO), nft.equal(_TCP), *port, nft.count("api"), nft.verdict(nft.GOTO, "refuse")]
    yield "input", [*sent, agent, *to_api]
    yield from (("input", [*sent, agent, *rule]) for rule in _upkeep())
    yield "input", [*sent, nft.chosen(OUT)]
    yield "input-verdict", [*sent, agent, obey]
    yield "output", [*got, agent, *answer, *got, nft.chosen(IN)]
    yield "output-verdict", [*got, agent, *answer, obey]


def _seen(marks: Marks) -> list[Expression]:
    """Mark packets of agents SEEN."""
    return [nft.meta(nft.IIFNAME), nft.within(AGENTS), *_put(marks, marks.value("seen"))]


def _arp(marks: Marks, blocked: Collection[str], *, owned: bool) -> Iterator[Message]:
    """Make the ARP table. While agents are blocked it marks their ARP requests SEEN.

    The kernel answers a request only if it finds a route for it, and the barrier refuses unmarked ones.
    """
    yield nft.table(NAME, owned=owned).arp()
    yield nft.interfaces(NAME, AGENTS, 1, verdicts=False).arp()
    yield nft.base_chain(NAME, "seen", nft.ARP_INPUT, LAST).arp()
    yield nft.no_rules(NAME).arp()
    yield nft.no_elements(NAME, AGENTS).arp()
    if blocked:
        yield nft.elements(NAME, AGENTS, dict.fromkeys(blocked)).arp()
        yield nft.rule(NAME, "seen", *_seen(marks)).arp()


def _judge(queue: int, settled: int, marks: Marks, *, bypass: bool) -> Iterator[_Rule]:
    """Make the rules of the chains `out-N` and `in-N` of a pair of queues.

    `bypass` (fail-open): packets pass if no process reads the queue.
    """
    for side in (OUT, IN):
        chain = f"{side}-{queue}"
        yield chain, _put(marks, 0)
        refused = [nft.ct(nft.CT_MARK), nft.bits(marks.refusal_mask), nft.equal32(marks.value("refused"))]
        yield chain, [*refused, nft.verdict(nft.GOTO, "known")]
        onward = nft.queue(settled, bypass=bypass) if side == OUT else nft.verdict(nft.ACCEPT)
        yield chain, [*_kept(marks, "settled"), onward]
        yield chain, [nft.queue(queue, bypass=bypass)]


def _upkeep() -> Iterator[list[Expression]]:
    """Make the rules that accept IPv6 link upkeep."""
    icmp = [nft.meta(nft.NFPROTO), nft.equal(_IPV6), nft.meta(nft.L4PROTO), nft.equal(_ICMPV6)]
    for kind in (133, 135, 136):
        discovery = [*icmp, nft.payload(nft.TRANSPORT, 0, 1), nft.equal(bytes((kind,)))]
        yield [*discovery, nft.payload(nft.NETWORK, 7, 1), nft.equal(b"\xff"), nft.verdict(nft.ACCEPT)]
    for kind in (143, 131, 132):
        report = [*icmp, nft.payload(nft.TRANSPORT, 0, 1), nft.equal(bytes((kind,)))]
        local = [nft.payload(nft.NETWORK, 8, 2), nft.masked(_LINK_LOCAL[1]), nft.equal(_LINK_LOCAL[0])]
        yield [*report, *local, nft.verdict(nft.ACCEPT)]


def _masquerade(attachments: Sequence[Attachment]) -> Iterator[_Rule]:
    pairs = [(each.interface, network) for each in attachments if each.masquerade for network in each.networks]
    for interface, network in dict.fromkeys((name, ipaddress.ip_network(text)) for name, text in pairs):
        family, offset = (b"\x02", 12) if network.version == 4 else (_IPV6, 8)
        source = [nft.payload(nft.NETWORK, offset, network.max_prefixlen // 8), nft.masked(network.netmask.packed)]
        name = interface.encode().ljust(nft.NAME_BYTES, b"\0")
        elsewhere = [nft.meta(nft.OIFNAME), nft.equal(name, unlike=True)]
        match = [nft.meta(nft.NFPROTO), nft.equal(family), *source, nft.equal(network.network_address.packed)]
        yield _MASQUERADE, [*match, *elsewhere, nft.masquerade()]


def _put(marks: Marks, value: int) -> list[Expression]:
    """Set our bits of the packet's mark to `value`."""
    return [nft.meta(nft.MARK), nft.bits(~marks.mask, value), nft.set_mark()]


def _marked(marks: Marks, value: int) -> list[Expression]:
    """Match packets whose mark has our bits equal to `value`."""
    return [nft.meta(nft.MARK), nft.bits(marks.mask), nft.equal32(value)]


def _keep(marks: Marks, name: str) -> list[Expression]:
    """Set our bits of the connection's mark to `name`."""
    return [nft.ct(nft.CT_MARK), nft.bits(~marks.mask, marks.value(name)), nft.set_ct_mark()]


def _kept(marks: Marks, name: str) -> list[Expression]:
    """Match packets of connections whose mark has our bits equal to `name`."""
    return [nft.ct(nft.CT_MARK), nft.bits(marks.mask), nft.equal32(marks.value(name))]
