"""nftables by netlink: expressions of rules, messages of transactions, and listings of tables.

Layout from linux/netfilter/nf_tables.h; framing in `egress.gateway.kernel.netlink`. A transaction is applied whole or
not at all, in both IP families at once (family inet). Registers hold marks in host byte order.

A table with an owner belongs to one netlink socket: no other process can change it, and `nft flush ruleset` leaves it
out (Linux 5.12). A persistent one outlives its owner, and the next may take it over (Linux 6.9). An owner alone is of
no use here: the table would go when the process is killed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from egress.errors import EgressError
from egress.gateway.kernel import netlink
from egress.gateway.kernel.netlink import attribute, attributes, text

INET, ARP = 1, 3  # NFPROTO_*
PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)  # NF_INET_*
ARP_INPUT = 0  # NF_ARP_IN
DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5  # verdicts
MARK, IIFNAME, OIFNAME, NFPROTO, L4PROTO = 3, 6, 7, 15, 16  # NFT_META_*
CT_STATE, CT_DIRECTION, CT_MARK = 0, 1, 3  # NFT_CT_*
ESTABLISHED, REPLY = 1 << 1, 1  # NF_CT_STATE_BIT, IP_CT_DIR_REPLY
NETWORK, TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
NAME_BYTES = 16  # IFNAMSIZ

(NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE, NEWSET, GETSET, DELSET,
 NEWELEMENT, GETELEMENT, DELELEMENT, NEWGEN, GETGEN, _TRACE, NEWOBJECT, GETOBJECT) = range(20)  # fmt: skip

SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_CREATE, _APPEND = 0x400, 0x800  # NLM_F_*
_OWNER, _PERSIST = 2, 4  # NFT_TABLE_F_*
_VERDICT_TYPE, _IFNAME_TYPE, _MAP = 0xFFFFFF00, 41, 8  # NFT_DATA_VERDICT; nft's number for interface names; NFT_SET_MAP
_COUNTER = 1  # NFT_OBJECT_COUNTER
_REGISTER = 1  # the one register that rules here use; 0 is the verdict
_RESET, _PROHIBITED = (1, None), (2, 3)  # reject types and codes: TCP_RST; ICMPX_UNREACH, ADMIN_PROHIBITED
_NESTED = 0x8000
BUFFER = 1 << 16
TIMEOUT = 5  # seconds without an answer of the kernel

Expression = bytes


class Message(NamedTuple):
    """One message of a transaction: its type (NEWTABLE, …), body, NLM_F_* flags, and family."""

    kind: int
    body: bytes
    flags: int = 0
    family: int = INET

    def arp(self) -> Message:
        """Return the same message for a table of family arp."""
        return self._replace(family=ARP)


# --- expressions: each function encodes one ---------------------------------------------------------------------


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _nest(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def _expression(name: str, *parts: bytes) -> Expression:
    return _nest(1, text(1, name), _nest(2, *parts))


def meta(key: int) -> Expression:
    """Load a packet's metadata (NFT_META_*) into the register."""
    return _expression("meta", _u32(2, key), _u32(1, _REGISTER))


def set_mark() -> Expression:
    """Set the packet's mark to the register."""
    return _expression("meta", _u32(2, MARK), _u32(3, _REGISTER))


def ct(key: int) -> Expression:
    """Load a property of the packet's connection (NFT_CT_*) into the register."""
    return _expression("ct", _u32(2, key), _u32(1, _REGISTER))


def set_ct_mark() -> Expression:
    """Set the connection's mark to the register."""
    return _expression("ct", _u32(2, CT_MARK), _u32(4, _REGISTER))


def bits(mask: int, xor: int = 0) -> Expression:
    """Set the register, 32 bits in host byte order, to (register & mask) ^ xor."""
    values = (_nest(kind, attribute(1, struct.pack("=I", value & 0xFFFFFFFF))) for kind, value in ((4, mask), (5, xor)))
    return _expression("bitwise", _u32(1, _REGISTER), _u32(2, _REGISTER), _u32(3, 4), *values)


def masked(mask: bytes) -> Expression:
    """Set the register, which holds bytes of a packet, to register & mask."""
    values = (_nest(kind, attribute(1, value)) for kind, value in ((4, mask), (5, bytes(len(mask)))))
    return _expression("bitwise", _u32(1, _REGISTER), _u32(2, _REGISTER), _u32(3, len(mask)), *values)


def equal(value: bytes, *, unlike: bool = False) -> Expression:
    """Match if the register equals these bytes; with `unlike`, if it differs from them."""
    return _expression("cmp", _u32(1, _REGISTER), _u32(2, int(unlike)), _nest(3, attribute(1, value)))


def equal32(value: int, *, unlike: bool = False) -> Expression:
    """Match if the register, 32 bits in host byte order, equals this number; with `unlike`, if it differs."""
    return equal(struct.pack("=I", value), unlike=unlike)


def payload(base: int, offset: int, length: int) -> Expression:
    """Load `length` bytes at `offset` of the header `base` (NETWORK or TRANSPORT) into the register."""
    return _expression("payload", _u32(1, _REGISTER), _u32(2, base), _u32(3, offset), _u32(4, length))


def within(name: str) -> Expression:
    """Match if the register is an element of the set `name`."""
    return _expression("lookup", text(1, name), _u32(2, _REGISTER))


def chosen(name: str) -> Expression:
    """Apply the verdict that the map `name` has for the register; no match if it has none."""
    return _expression("lookup", text(1, name), _u32(2, _REGISTER), _u32(3, 0))


def verdict(code: int, chain: str = "") -> Expression:
    """Apply a verdict. JUMP and GOTO name a chain."""
    return _expression("immediate", _u32(1, 0), _nest(2, _verdict(code, chain)))


def _verdict(code: int, chain: str) -> bytes:
    return _nest(2, _u32(1, code), *([text(2, chain)] if chain else []))


def reset() -> Expression:
    """Answer with a TCP reset. For TCP only."""
    return _reject(*_RESET)


def prohibited() -> Expression:
    """Answer with ICMP administratively prohibited, of the packet's family."""
    return _reject(*_PROHIBITED)


def _reject(kind: int, code: int | None) -> Expression:
    return _expression("reject", _u32(1, kind), *([] if code is None else [attribute(2, bytes((code,)))]))


def queue(number: int, *, bypass: bool) -> Expression:
    """Queue the packet, by the target of xtables: not every kernel has nft's own expression.

    `bypass`: let it pass if no process reads the queue, instead of dropping it.
    """
    return _expression(
        "target", text(1, "NFQUEUE"), _u32(2, 3), attribute(3, struct.pack("=HHHxx", number, 1, int(bypass)))
    )


def count(name: str) -> Expression:
    """Count the packet in a named counter."""
    return _expression("objref", _u32(1, _COUNTER), text(2, name))


def masquerade() -> Expression:
    """Replace the source address by the outgoing interface's."""
    return _expression("masq")


# --- messages: each function encodes one. `of` is the table's name ------------------------------------------------


def table(name: str, *, owned: bool) -> Message:
    """Make a table if there is none. `owned`: make it ours and persistent, also if it is there without an owner."""
    return Message(NEWTABLE, text(1, name) + _u32(2, _OWNER | _PERSIST if owned else 0), _CREATE)


def no_table(name: str) -> Message:
    """Delete a table and its content."""
    return Message(DELTABLE, text(1, name))


def chain(of: str, name: str) -> Message:
    """Make a chain that rules can jump to."""
    return Message(NEWCHAIN, text(1, of) + text(3, name), _CREATE)


def base_chain(of: str, name: str, hook: int, priority: int, kind: str = "filter") -> Message:
    """Make a chain at a hook, policy accept. Of equal priorities the one made last comes first."""
    place = _nest(4, _u32(1, hook), _u32(2, priority))
    return Message(NEWCHAIN, text(1, of) + text(3, name) + place + _u32(5, ACCEPT) + text(7, kind), _CREATE)


def no_chain(of: str, name: str) -> Message:
    """Delete a chain."""
    return Message(DELCHAIN, text(1, of) + text(3, name))


def rule(of: str, name: str, *expressions: Expression) -> Message:
    """Append a rule to a chain."""
    return Message(NEWRULE, text(1, of) + text(2, name) + _nest(4, *expressions), _CREATE | _APPEND)


def no_rules(of: str) -> Message:
    """Delete the rules of all chains of a table."""
    return Message(DELRULE, text(1, of))


def interfaces(of: str, name: str, number: int, *, verdicts: bool) -> Message:
    """Make a set of interface names, or a map of them to verdicts. `number` is unique in the transaction."""
    data = _u32(6, _VERDICT_TYPE) + _u32(7, 0) if verdicts else b""
    head = text(1, of) + text(2, name) + _u32(3, _MAP if verdicts else 0) + _u32(4, _IFNAME_TYPE)
    return Message(NEWSET, head + _u32(5, NAME_BYTES) + data + _u32(10, number), _CREATE)


def elements(of: str, name: str, found: dict[str, Expression | None]) -> Message:
    """Add interface names to a set (each with None), or to a map, each with its verdict from `target`."""
    listed = (
        _nest(1, _nest(1, attribute(1, key.encode().ljust(NAME_BYTES, b"\0"))), *([] if data is None else [data]))
        for key, data in found.items()
    )
    return Message(NEWELEMENT, text(1, of) + text(2, name) + _nest(3, *listed), _CREATE)


def target(code: int, chain: str = "") -> bytes:
    """Encode the verdict of a map's element."""
    return _nest(2, _verdict(code, chain))


def no_elements(of: str, name: str) -> Message:
    """Delete all elements of a set or map."""
    return Message(DELELEMENT, text(1, of) + text(2, name))


def counter(of: str, name: str) -> Message:
    """Make a named counter if there is none."""
    return Message(NEWOBJECT, text(1, of) + text(2, name) + _u32(3, _COUNTER) + _nest(4), _CREATE)


def batch(found: Iterable[Message]) -> bytes:
    """Encode a transaction. A message's sequence number is its place in it, from 1; the kernel acknowledges each."""
    edge = netlink.generic(socket.AF_UNSPEC, 10)
    parts = [netlink.request(_BEGIN, edge)]
    for sequence, each in enumerate(found, 1):
        body = netlink.generic(each.family) + each.body
        flags = each.flags | netlink.ACK
        parts.append(netlink.request(SUBSYSTEM | each.kind, body, flags=flags, sequence=sequence))
    return b"".join([*parts, netlink.request(_END, edge)])


# --- the socket -------------------------------------------------------------------------------------------------


class Nftables:
    """A socket for transactions and listings. Until it is closed it owns the tables that it made `owned`.

    Every method raises OSError with the kernel's errno, the constructor EgressError.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_NETFILTER)
        except OSError as error:
            raise EgressError(f"no netlink socket ({error.strerror}): start egress as root") from None
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", TIMEOUT, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)

    @property
    def port(self) -> int:
        """The port id by which the kernel's notifications name this socket."""
        return int(self._socket.getsockname()[0])

    def close(self) -> None:
        self._socket.close()

    def apply(self, found: list[Message]) -> None:
        """Apply a transaction. After an error nothing has changed."""
        self._drain()
        self._socket.sendto(batch(found), (0, 0))
        waiting, first = len(found), 0
        while waiting:
            for kind, sequence, _, body in netlink.frames(self._socket.recv(BUFFER)):
                if kind != netlink.ERROR:
                    continue
                number = netlink.errno(body)
                if sequence == 0:  # the whole transaction was refused
                    raise OSError(number or errno.EINVAL, os.strerror(number or errno.EINVAL), "transaction")
                waiting -= 1
                first = first or number
        netlink.check(first)

    def listing(self, kind: int, of: str, *extra: bytes) -> list[dict[int, bytes]]:
        """List the chains (`kind` GETCHAIN), rules, elements or objects of a table: the attributes of each.

        Without the table: empty, or FileNotFoundError. `extra`: attributes that narrow the request.
        """
        body = netlink.generic(INET) + text(1, of) + b"".join(extra)
        answers = self._dump(kind, body)
        return [found for found in answers if found.get(1) == of.encode() + b"\0"]

    def elements(self, of: str, name: str) -> list[dict[int, bytes]]:
        """List the elements of a set or map, the attributes of each; empty if there is no such set or table."""
        try:
            parts = self.listing(GETELEMENT, of, text(2, name))
        except FileNotFoundError:
            return []
        return [attributes(piece) for part in parts for piece in nested(part.get(3, b""))]

    def generation(self) -> int:
        """Read the number of transactions of this network namespace so far, modulo 2^32."""
        self._drain()
        self._socket.sendto(netlink.request(SUBSYSTEM | GETGEN, netlink.generic(socket.AF_UNSPEC)), (0, 0))
        for _, body in netlink.messages(self._socket.recv(BUFFER)):
            return int(struct.unpack(">I", attributes(body[netlink.GENERIC_BYTES :])[1])[0])
        return 0

    def everything(self, kind: int) -> list[tuple[int, dict[int, bytes]]]:
        """List all objects of a kind (GETRULE, …) in all tables of all families: family and attributes of each."""
        self._drain()
        return list(self._bodies(kind, netlink.generic(socket.AF_UNSPEC)))

    def _dump(self, kind: int, body: bytes) -> Iterator[dict[int, bytes]]:
        self._drain()
        return iter([found for _, found in self._bodies(kind, body)])

    def _bodies(self, kind: int, body: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
        for _, found in netlink.dump(self._socket, netlink.request(SUBSYSTEM | kind, body, flags=netlink.DUMP)):
            yield found[0], attributes(found[netlink.GENERIC_BYTES :])

    def _drain(self) -> None:
        """Discard late answers to requests that timed out."""
        while True:
            try:
                self._socket.recv(BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return


def nested(data: bytes) -> Iterator[bytes]:
    """Yield the values of a list of attributes, all of one type."""
    return (value for _, value in netlink.each_attribute(data))
