"""An index of rules by destination: finds the few rules that may match an address and its names, among very many.

Names are found by their own spelling and by each of their suffixes, addresses by their prefix under each prefix length
in use, and rules for `any` are always candidates. The other conditions of a rule (protocol, ports, application, time)
are compared on the candidates alone, so the cost grows with the rules for one destination and not with the policy. The
same is true for the removal of a rule; tables without rules are dropped.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from egress.addresses import Network
from egress.model import PROTOCOL_NUMBERS, Rule
from egress.policy.domain import Depth, Pattern, parse_pattern

Destination = Pattern | Network | None  # None: any


class IndexedRule(NamedTuple):
    """A rule, with its destination and protocol parsed."""

    position: tuple[int, int]  # the rule's own, and a serial number: different for any two rules
    rule: Rule
    destination: Destination
    proto: int  # -1: any


Bucket = list[IndexedRule]  # in order of position

POSITION = attrgetter("position")


def parse_destination(text: str) -> Destination:
    """Parse the destination of a rule into a network or a name pattern; `any` gives None.

    Raises ValueError if it is not valid.
    """
    if text == "any":
        return None
    if text[-1:].isalpha() and ":" not in text:
        return parse_pattern(text)  # not an address: saves the slow attempt to parse it as one
    try:
        return Network.parse(text)
    except ValueError:
        return parse_pattern(text)


def parse_protocol(text: str) -> int:
    """Return the IP protocol number of a name or a number as text; -1 for "" (any). Raises ValueError."""
    if not text:
        return -1
    return PROTOCOL_NUMBERS[text] if text in PROTOCOL_NUMBERS else int(text)


def depth(destination: Destination) -> int:
    """Return the number of labels in the base of a ** pattern; 0 for every other destination."""
    if isinstance(destination, Pattern) and destination.depth is Depth.DEEP:
        return destination.base.count(".") + 1
    return 0


class DestinationKeys(NamedTuple):
    """The keys under which an index finds the rules for a destination; made once, used for many indexes."""

    size: int  # of the packed address
    value: int  # the address as a number
    inner: tuple[int, ...]  # IPv4 addresses that an IPv6 address stands for
    names: tuple[str, ...]
    parents: tuple[str, ...]  # the names without their first label
    suffixes: tuple[str, ...]  # the parents, and the parents of those


def destination_keys(
    address: bytes, names: Iterable[str], deepest: int, inner: Iterable[bytes] = ()
) -> DestinationKeys:
    """Return the keys of a packed address (b"": none) and its canonical names.

    `deepest`: the most labels in the base of a ** pattern. Longer suffixes are left out, so that a name of 127 labels
    costs no more than its last ones. `inner`: IPv4 addresses whose rules match the address as well.
    """
    names = tuple(names)
    parents = tuple(name.partition(".")[2] for name in names)
    suffixes = set()
    for suffix in parents:
        excess = suffix.count(".") + 1 - deepest
        suffix = suffix.split(".", excess)[-1] if excess > 0 else suffix
        while suffix and suffix not in suffixes:
            suffixes.add(suffix)
            suffix = suffix.partition(".")[2]
    inside = tuple(map(int.from_bytes, inner)) if inner else ()
    return DestinationKeys(len(address), int.from_bytes(address), inside, names, parents, tuple(suffixes))


class Index:
    """An index of rules by destination; `len` gives the number of its rules."""

    __slots__ = ("_any", "_count", "_deep", "_exact", "_networks", "_one")

    def __init__(self) -> None:
        self._count = 0
        self._any: Bucket = []
        self._networks: dict[int, dict[int, dict[int, Bucket]]] = {4: {}, 16: {}}  # by size, shift, prefix
        self._exact: dict[str, Bucket] = {}  # this and the next two: by base
        self._one: dict[str, Bucket] = {}
        self._deep: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, entry: IndexedRule) -> None:
        """Add a rule under its destination."""
        destination = entry.destination
        self._count += 1
        if destination is None:
            _insert(self._any, entry)
        elif isinstance(destination, Network):
            table = self._networks[destination.size].setdefault(destination.shift, {})
            _insert(table.setdefault(destination.prefix, []), entry)
        else:
            _insert(self._names(destination).setdefault(destination.base, []), entry)

    def remove(self, entry: IndexedRule) -> None:
        """Remove a rule that is in the index."""
        destination = entry.destination
        self._count -= 1
        if destination is None:
            _remove(self._any, entry)
        elif isinstance(destination, Network):
            tables = self._networks[destination.size]
            table = tables[destination.shift]
            if not _remove(table[destination.prefix], entry):
                del table[destination.prefix]
            if not table:
                del tables[destination.shift]
        else:
            names = self._names(destination)
            if not _remove(names[destination.base], entry):
                del names[destination.base]

    def anywhere(self) -> list[Bucket]:
        """Return the lists of rules that match every destination: `any`, and networks of prefix length 0."""
        whole = [tables.get(8 * size, {}).get(0) for size, tables in self._networks.items()]
        return [bucket for bucket in (self._any, *whole) if bucket]

    def specific(self, where: DestinationKeys) -> list[Bucket]:
        """Return the lists of rules that match this destination, without those for `any`.

        The same list may come twice.
        """
        found: list[Bucket] = []
        for shift, table in self._networks.get(where.size, {}).items():
            if bucket := table.get(where.value >> shift):
                found.append(bucket)
        for value in where.inner:
            for shift, table in self._networks[4].items():
                if bucket := table.get(value >> shift):
                    found.append(bucket)
        if where.names:
            for names, keys in (
                (self._exact, where.names),
                (self._one, where.parents),
                (self._deep, where.suffixes),
            ):
                if names:
                    found += [names[key] for key in keys if key in names]
        return found

    def reaching(self, where: DestinationKeys) -> list[Bucket]:
        """Return the lists of rules that match this destination, those for `any` included.

        The same list may come twice.
        """
        return [self._any, *self.specific(where)] if self._any else self.specific(where)

    def _names(self, pattern: Pattern) -> dict[str, Bucket]:
        if pattern.depth is Depth.EXACT:
            return self._exact
        return self._one if pattern.depth is Depth.ONE else self._deep


def _insert(bucket: Bucket, entry: IndexedRule) -> None:
    if bucket and entry.position < bucket[-1].position:
        insort(bucket, entry, key=POSITION)
    else:
        bucket.append(entry)


def _remove(bucket: Bucket, entry: IndexedRule) -> Bucket:
    """Remove a rule from its bucket; return the bucket."""
    del bucket[bisect_left(bucket, entry.position, key=POSITION)]
    return bucket
