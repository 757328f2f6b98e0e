"""The text of our kernel rules: the content of each chain. Pure; `egress.gateway.kernel.iptables` applies it.

How a packet travels (FORWARD: through the gateway; INPUT: to the gateway host itself; OUTPUT: the host's answers):

| hook, table        | our chain          | what happens                                                             |
|--------------------|--------------------|--------------------------------------------------------------------------|
| FORWARD mangle     | EGRESS-FORWARD     | from an agent's interface: EGRESS-OUT; to one: EGRESS-IN                 |
| INPUT mangle       | EGRESS-INPUT       | from an agent's interface: EGRESS-OUT, except IPv6 link upkeep; to the   |
|                    |                    | port of the API: marked as refused, whatever the policy says             |
| OUTPUT mangle      | EGRESS-OUTPUT      | answers to an agent's connection: EGRESS-IN                              |
|                    | EGRESS-OUT         | our mark bits zeroed; refused connection: mark it, leave; settled        |
|                    |                    | connection: settled queue; all others: full-depth queue                  |
|                    | EGRESS-IN          | the same, but replies of a settled connection are not queued             |
| (a worker)         |                    | verdict ACCEPT with a packet mark; the rest of mangle is skipped         |
| INPUT filter       | EGRESS-DELIVER     | keep the mark on the connection; refused: EGRESS-REFUSE                  |
| FORWARD and OUTPUT | EGRESS-REFUSE      | mark REFUSED or DROPPED: keep it on the connection, then TCP reset,      |
| filter             |                    | ICMP administratively prohibited, or silence                             |
| POSTROUTING mangle | EGRESS-POSTROUTING | keep the mark on the connection; drop refused packets that another       |
|                    |                    | program's filter rule, placed before ours, has accepted                  |
| POSTROUTING nat    | EGRESS-NAT         | masquerade where an attachment asks for it                               |

Only interface and address identify an agent. An interface with an agent on it belongs to agents. Where several agents
share it, the network decides, longest prefix first; a packet that matches no network goes to the queue of the first
agent, whose worker refuses it as spoofed. A later verdict never overwrites a connection's refusal. The sender's worker
judges a packet from one agent to another. Link upkeep is ICMPv6 neighbour discovery with hop limit 255 (RFC 4861
section 11.2: it cannot come from off-link) and MLD reports from a link-local address (RFC 2710, RFC 3810); without it
the agent has no link. Frames that a bridge passes between two of its own ports are not routed and come here only where
br_netfilter hands them over.

Of the host's packets to an agent, only true answers are queued: ESTABLISHED and in the direction REPLY. Not queued are
the host's own connections (ORIGINAL), link upkeep (untracked), and the resets and ICMP errors that the kernel makes
(RELATED): those for our refusals belong to an unconfirmed connection, which a queue would drop. After a verdict in
OUTPUT the kernel routes the packet again if its mark has changed: no routing rule may match our bits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from egress.config import Config
from egress.errors import InputError
from egress.gateway.kernel.marks import Marks

FILTER, NAT, MANGLE = "filter", "nat", "mangle"
CHAINS: dict[str, tuple[str, ...]] = {
    FILTER: ("EGRESS-REFUSE", "EGRESS-DELIVER"),
    NAT: ("EGRESS-NAT",),
    MANGLE: ("EGRESS-FORWARD", "EGRESS-INPUT", "EGRESS-OUTPUT", "EGRESS-OUT", "EGRESS-IN", "EGRESS-POSTROUTING"),
}
Rules = dict[str, list[str]]  # table → rules of our chains, `-A …`, in order
# Taken literally by iptables: no quotes or blanks (restore syntax), no `+` (its wildcard), no leading `-` or `!`.
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,14}")
_UPKEEP = tuple(f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -m hl --hl-eq 255" for kind in (133, 135, 136)) + tuple(
    f"-s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type {kind}" for kind in (143, 131, 132)
)
_ANSWER = "-m conntrack --ctstate ESTABLISHED --ctdir REPLY"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The place where an agent is attached: all traffic of `interface`, and of `networks` where agents share it."""

    agent: str
    interface: str
    networks: tuple[str, ...]  # CIDRs, both families
    queue: int  # full-depth queue number
    settled_queue: int
    masquerade: bool


def check(attachments: Sequence[Attachment]) -> None:
    """Raise InputError for values that must not reach a rule file: interface names, networks, queue numbers."""
    for attachment in attachments:
        check_interface(attachment.interface, f"agent {attachment.agent}")
        for network in attachment.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise InputError(f"network of agent {attachment.agent}: {error}") from None
        if not (0 <= attachment.queue <= 0xFFFF and 0 <= attachment.settled_queue <= 0xFFFF):
            raise InputError(f"queue.base: the queues of agent {attachment.agent} must be numbers from 0 to 65535")


def check_interface(interface: str, owner: str) -> None:
    """Raise InputError for an interface name that iptables would not take literally."""
    if not _INTERFACE.fullmatch(interface):
        raise InputError(
            f"interface {interface!r} of {owner}: rename it to at most 15 "
            "letters, digits, dots, dashes (not first) and underscores"
        )


def jumps(table: str, config: Config) -> dict[str, str]:
    """Map each built-in chain to the rule, without `-A CHAIN`, that must be first in it."""
    refused = _refused(Marks(config.mark_mask))
    return {
        FILTER: {"FORWARD": refused, "INPUT": "-j EGRESS-DELIVER", "OUTPUT": refused},
        NAT: {"POSTROUTING": "-j EGRESS-NAT"},
        MANGLE: {hook: f"-j EGRESS-{hook}" for hook in ("FORWARD", "INPUT", "OUTPUT", "POSTROUTING")},
    }[table]


def rules(attachments: Sequence[Attachment], config: Config, family: int, *, blocking: bool = False) -> Rules:
    """Make the rules of our chains for one family (4 or 6); no `nat` where no attachment asks for masquerading.

    `blocking` refuses all packets from and to agents instead of queueing them, and keeps no mark on the connections:
    they are judged again once the gateway is back.
    """
    check(attachments)
    marks = Marks(config.mark_mask)
    found = {FILTER: _refuse(family, marks, keep=not blocking) + _deliver(marks, keep=not blocking)}
    if nat := _masquerade(attachments, family):
        found[NAT] = nat
    found[MANGLE] = _dispatch(attachments, config, family)
    for chain, side, address in (("EGRESS-OUT", "-i", "-s"), ("EGRESS-IN", "-o", "-d")):
        if blocking:
            found[MANGLE].append(f"-A {chain} -j MARK --set-xmark {marks.value('refused'):#x}/{marks.mask:#x}")
            continue
        found[MANGLE] += _known(chain, marks)
        for match, attachment in _selectors(attachments, family, side, address):
            found[MANGLE] += _judge(f"-A {chain} {match}", attachment, config)
    found[MANGLE] += _postrouting(marks, keep=not blocking)
    return found


def _refuse(family: int, marks: Marks, *, keep: bool) -> list[str]:
    """Make the rules that refuse a marked packet. `keep`: first save its mark on its connection.

    The mark is zeroed before REJECT: with sysctl fwmark_reflect the reset would carry it and be refused itself.
    """
    mask, prohibited = f"{marks.mask:#x}", "icmp-admin-prohibited" if family == 4 else "icmp6-adm-prohibited"
    save = [f"-A EGRESS-REFUSE -j CONNMARK --save-mark --nfmask {mask} --ctmask {mask}"] if keep else []
    return [
        *save,
        f"-A EGRESS-REFUSE -m mark --mark {marks.value('dropped'):#x}/{mask} -j DROP",
        f"-A EGRESS-REFUSE -j MARK --set-xmark 0x0/{mask}",
        "-A EGRESS-REFUSE -p tcp -j REJECT --reject-with tcp-reset",
        f"-A EGRESS-REFUSE -j REJECT --reject-with {prohibited}",
    ]


def _deliver(marks: Marks, *, keep: bool) -> list[str]:
    """Make the rules for packets to the host itself. `keep`: save their marks here, since no POSTROUTING follows."""
    return [*(_keep("EGRESS-DELIVER", marks) if keep else []), f"-A EGRESS-DELIVER {_refused(marks)}"]


def _refused(marks: Marks) -> str:
    return f"-m mark --mark {marks.value('refused'):#x}/{marks.refusal_mask:#x} -j EGRESS-REFUSE"


def _keep(chain: str, marks: Marks) -> list[str]:
    """Make the rule that copies the packet's mark to its connection, unless the connection is refused."""
    mask, refused = f"{marks.mask:#x}", f"--mark {marks.value('refused'):#x}/{marks.refusal_mask:#x}"
    save = f"-j CONNMARK --save-mark --nfmask {mask} --ctmask {mask}"
    return [f"-A {chain} -m mark ! --mark 0x0/{mask} -m connmark ! {refused} {save}"]


def _masquerade(attachments: Sequence[Attachment], family: int) -> list[str]:
    lines = [
        f"-A EGRESS-NAT -s {network} ! -o {attachment.interface} -j MASQUERADE"
        for attachment in attachments
        if attachment.masquerade
        for network in _networks(attachment, family)
    ]
    return list(dict.fromkeys(lines))


def _dispatch(attachments: Sequence[Attachment], config: Config, family: int) -> list[str]:
    """Make the rules that lead agents' packets to our chains.

    No agent reaches the API, on any address of the host; no policy can change that.
    """
    marks, api = Marks(config.mark_mask), f"-p tcp -m tcp --dport {config.api.port}"
    lines = []
    for interface in dict.fromkeys(attachment.interface for attachment in attachments):
        lines += [f"-A EGRESS-FORWARD -i {interface} -j EGRESS-OUT", f"-A EGRESS-FORWARD -o {interface} -j EGRESS-IN"]
        to_api = f"-A EGRESS-INPUT -i {interface} {api}"
        lines.append(f"{to_api} -j MARK --set-xmark {marks.value('refused'):#x}/{marks.mask:#x}")
        lines.append(f"{to_api} -j RETURN")
        lines += [f"-A EGRESS-INPUT -i {interface} {match} -j RETURN" for match in _UPKEEP if family == 6]
        lines.append(f"-A EGRESS-INPUT -i {interface} -j EGRESS-OUT")
        lines.append(f"-A EGRESS-OUTPUT -o {interface} {_ANSWER} -j EGRESS-IN")
    return lines


def _known(chain: str, marks: Marks) -> list[str]:
    """Make the first rules of a chain: packets of refused connections, and replies of settled ones, are not queued."""
    mask = f"{marks.mask:#x}"
    refused = f"-A {chain} -m connmark --mark {marks.value('refused'):#x}/{marks.refusal_mask:#x}"
    settled = f"-A {chain} -m connmark --mark {marks.value('settled'):#x}/{mask} -j RETURN"
    return [
        f"-A {chain} -j MARK --set-xmark 0x0/{mask}",
        f"{refused} -j CONNMARK --restore-mark --nfmask {mask} --ctmask {mask}",
        f"{refused} -j RETURN",
        *([settled] if chain == "EGRESS-IN" else []),
    ]


def _judge(prefix: str, attachment: Attachment, config: Config) -> list[str]:
    """Make the rules that queue the packets of one selector.

    With fail-open a queue without a reader is skipped, and then the packet must not reach the next agent's queue.
    """
    marks = Marks(config.mark_mask)
    bypass = " --queue-bypass" if config.fail_open else ""
    settled = f"-m connmark --mark {marks.value('settled'):#x}/{marks.mask:#x}"
    lines = [f"{prefix} -j NFQUEUE --queue-num {attachment.queue}{bypass}"]
    if "EGRESS-OUT" in prefix:
        lines.insert(0, f"{prefix} {settled} -j NFQUEUE --queue-num {attachment.settled_queue}{bypass}")
    return lines + ([f"{prefix} -j RETURN"] if config.fail_open else [])


def _postrouting(marks: Marks, *, keep: bool) -> list[str]:
    refused = f"--mark {marks.value('refused'):#x}/{marks.refusal_mask:#x}"
    saved = _keep("EGRESS-POSTROUTING", marks) if keep else []
    return [*saved, f"-A EGRESS-POSTROUTING -m mark {refused} -j DROP"]


def _selectors(
    attachments: Sequence[Attachment], family: int, side: str, address: str
) -> Iterator[tuple[str, Attachment]]:
    """Yield iptables matches and their attachments, in the order to be tried.

    The last match of an interface takes all its remaining packets.
    """
    for interface in dict.fromkeys(attachment.interface for attachment in attachments):
        here = [attachment for attachment in attachments if attachment.interface == interface]
        pairs = [(network, each) for each in here for network in _networks(each, family)] if len(here) > 1 else []
        for network, attachment in sorted(pairs, key=lambda pair: -pair[0].prefixlen):
            yield f"{side} {interface} {address} {network}", attachment
        yield f"{side} {interface}", here[0]


def _networks(attachment: Attachment, family: int) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = [ipaddress.ip_network(network) for network in attachment.networks]
    return [network for network in found if network.version == family]
