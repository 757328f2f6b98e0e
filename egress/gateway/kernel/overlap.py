"""Find rules of other programs that use our mark bits: iptables, nftables, routing rules, traffic control.

On packets from and to agents egress overwrites its bits, and zeroes them before other programs see the packets. So a
program that keeps marks of its own in these bits loses them on those packets, and one that writes them on connections
can make egress judge settled connections anew, or refuse them. A rule that matches or sets the whole mark, with zeroes
in our bits, does no harm.
"""

from __future__ import annotations

import re
import shutil
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from egress.errors import EgressError
from egress.gateway.kernel import barrier, netlink, table
from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.command import run
from egress.gateway.kernel.netlink import attributes

ALL = 0xFFFFFFFF
_SAVES = ("iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save")
_IPTABLES = {b"filter\0", b"mangle\0", b"nat\0", b"raw\0", b"security\0"}  # iptables prints its own tables
_VALUE = re.compile(r"--(?:set-xmark|set-mark|mark|or-mark|and-mark|xor-mark) (0x[\da-f]+|\d+)(?:/(0x[\da-f]+|\d+))?")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_COPIED = re.compile(r"--(?:nfmask|ctmask) (0x[\da-f]+)")
_FILTER = re.compile(r"\bfw\b.* handle (0x[\da-f]+)(?:/(0x[\da-f]+))?")
_EDIT = re.compile(r"skbedit.*? mark (0x[\da-f]+|\d+)(?:/(0x[\da-f]+|\d+))?")
_MAX_INTERFACES = 64  # whose filters are looked at


class MarkUser(NamedTuple):
    """A rule of another program: its text, the mark bits that it matches or sets, and its value in them."""

    text: str
    mask: int
    value: int

    def overlaps(self, ours: int) -> bool:
        """Return True if the rule uses one of the bits `ours`; a rule on the whole mark, if its value sets one."""
        return bool(self.value & ours) or (self.mask != ALL and bool(self.mask & ours))


def users() -> list[MarkUser]:
    """List all rules of other programs that use marks, whichever bits. Raises EgressError if the kernel refuses.

    Filters of tc are read from the first 64 interfaces only, and tools that are not installed are skipped.
    """
    return list(dict.fromkeys([*_iptables(), *_nftables(), *_routing(), *_filters()]))


def unused(found: list[MarkUser]) -> int | None:
    """Return the highest mask of four adjacent bits, one hexadecimal digit, that no rule uses; None if none is free."""
    used = 0
    for each in found:
        used |= each.value if each.mask == ALL else each.mask | each.value
    return next((0xF << shift for shift in range(28, -1, -4) if not used & 0xF << shift), None)


def in_iptables(line: str, place: str) -> MarkUser | None:
    """Parse one rule as iptables-save prints it; None if it uses no mark. `place`, its table, begins the text."""
    line = _QUOTED.sub('"…"', line)  # a comment may read like an option
    masks = [int(mask, 16) for mask in _COPIED.findall(line)]
    mask, value = 0, 0
    for each in masks:
        mask |= each
    for first, second in _VALUE.findall(line):
        bits = int(second, 0) if second else ALL
        mask, value = mask | bits, value | int(first, 0) & bits
    return MarkUser(f"{place} {line}", mask, value) if mask else None


def _iptables() -> Iterator[MarkUser]:
    for tool in _SAVES:
        if shutil.which(tool) is None:
            continue
        place = tool
        for line in run(tool).splitlines():
            if line.startswith("*"):
                place = f"{tool.removesuffix('-save')} -t {line[1:]}"
            elif line.startswith("-A ") and not line.startswith("-A EGRESS-"):
                found = in_iptables(line, place)
                if found is not None:
                    yield found


def _nftables() -> Iterator[MarkUser]:
    kernel = nft.Nftables()
    try:
        listed = kernel.everything(nft.GETRULE)
    except OSError as error:
        raise EgressError(f"cannot list the rules of nftables: {error.strerror}") from None
    finally:
        kernel.close()
    for family, found in listed:
        name, chain = found.get(1, b""), found.get(2, b"").rstrip(b"\0").decode(errors="replace")
        printed = family in (socket.AF_INET, socket.AF_INET6) and name in _IPTABLES and shutil.which("iptables-save")
        if name == table.NAME.encode() + b"\0" or printed:
            continue
        used = in_expressions(found.get(4, b""))
        if used is not None:
            mask, value = used
            place = f"nft table {name.rstrip(bytes(1)).decode(errors='replace')} chain {chain}"
            yield MarkUser(f"{place} handle {int.from_bytes(found.get(3, b''), 'big')}", mask, value)


def in_expressions(data: bytes) -> tuple[int, int] | None:
    """Return the mark bits that a rule of nftables uses, and its value in them; None if it uses none.

    `data`: the rule's expressions as the kernel lists them. A comparison uses the bits that the bitwise expression
    before it keeps (else all). Setting the mark uses the bits that this expression clears or flips; to set a constant
    uses all.
    """
    mask = value = 0
    loaded = False
    kept, flipped, constant = ALL, 0, None
    for each in nft.nested(data):
        expression = attributes(each)
        name, inside = expression.get(1, b"").rstrip(b"\0"), attributes(expression.get(2, b""))
        if name in (b"meta", b"ct"):
            key, source = (inside.get(2, b""), inside.get(3 if name == b"meta" else 4))
            if key != struct.pack(">I", nft.MARK):
                loaded = False
            elif source is None:
                loaded, kept, flipped, constant = True, ALL, 0, None
            else:
                mask |= ALL if constant is not None else ~kept & ALL | flipped
                value |= constant if constant is not None else flipped
        elif name == b"bitwise" and loaded:
            kept, flipped = (_number(inside.get(kind, b"")) for kind in (4, 5))
        elif name == b"immediate":
            constant = _number(inside.get(2, b""))
        elif name == b"cmp" and loaded:
            mask, value, loaded = mask | kept, value | _number(inside.get(3, b"")), False
    return (mask, value) if mask else None


def _number(data: bytes) -> int:
    raw = netlink.attributes(data).get(1, b"")
    return int(struct.unpack("=I", raw)[0]) if len(raw) == 4 else 0


def _routing() -> Iterator[MarkUser]:
    for each in barrier.rules():
        mark, mask = each.mark
        if mask and not each.ours:
            family = "-6 " if each.family == socket.AF_INET6 else ""
            text = f"ip {family}rule pref {each.preference} fwmark {mark:#x}/{mask:#x}"
            yield MarkUser(text, mask, mark & mask)


def _filters() -> Iterator[MarkUser]:
    if shutil.which("tc") is None:
        return
    for _, interface in socket.if_nameindex()[:_MAX_INTERFACES]:
        for side in ((), ("ingress",), ("egress",)):
            try:
                text = run("tc", "filter", "show", "dev", interface, *side)
            except EgressError:
                continue  # no queueing discipline of this kind
            for line in text.splitlines():
                if match := _FILTER.search(line) or _EDIT.search(line):
                    mask = int(match[2], 0) if match[2] else ALL
                    yield MarkUser(f"tc filter dev {interface}: {line.strip()}", mask, int(match[1], 0) & mask)
