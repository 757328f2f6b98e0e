"""Rules by destination: from an address and its names to the few rules that may speak of it, however many there are.

Names are found by their own spelling and by each of their suffixes, addresses by their prefix under each prefix length
in use, and `any` is always a candidate. What else a rule asks for (protocol, ports, application, time) is compared on
the candidates alone, so that cost grows with the rules of one destination and not with the policy. So does that of
taking a rule out again, and what has become empty is dropped.
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
    """A rule, ready to be compared."""

    position: tuple[int, int]  # the rule's own, and when it came: of no two entries the same
    rule: Rule
    destination: Destination
    proto: int  # -1: any


Bucket = list[IndexedRule]  # in order of position

POSITION = attrgetter("position")


def parse_destination(text: str) -> Destination:
    """Compile what the policy reader has accepted. Raises ValueError for what is no destination."""
    if text == "any":
        return None
    if text[-1:].isalpha() and ":" not in text:
        return parse_pattern(text)  # spared the slow way to find out that it is no address
    try:
        return Network.parse(text)
    except ValueError:
        return parse_pattern(text)


def parse_protocol(text: str) -> int:
    """The number of a protocol by name or number, -1 for any. Raises ValueError for what is none."""
    if not text:
        return -1
    return PROTOCOL_NUMBERS[text] if text in PROTOCOL_NUMBERS else int(text)


def depth(destination: Destination) -> int:
    """Labels in the base of a ** pattern; 0 for every other destination."""
    if isinstance(destination, Pattern) and destination.depth is Depth.DEEP:
        return destination.base.count(".") + 1
    return 0


class DestinationKeys(NamedTuple):
    """A destination taken apart into the keys that rules are found by; made once, asked of many indexes."""

    size: int  # of the packed address
    value: int  # the address as a number
    names: tuple[str, ...]
    parents: tuple[str, ...]  # the names without their first label
    suffixes: tuple[str, ...]  # the parents, and the parents of those


def place(address: bytes, names: Iterable[str], deepest: int) -> DestinationKeys:
    """The keys of a packed address (b"": none) and its canonical names.

    `deepest`: no suffix of more labels is anybody's base, so that a name of 127 labels costs what its last ones do.
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
    return DestinationKeys(len(address), int.from_bytes(address), names, parents, tuple(suffixes))


class Index:
    """Some rules, by destination."""

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
        destination = entry.destination
        self._count += 1
        if destination is None:
            _insert(self._any, entry)
        elif isinstance(destination, Network):
            table = self._networks[destination.size].setdefault(destination.shift, {})
            _insert(table.setdefault(destination.prefix, []), entry)
        else:
            _insert(self._called(destination).setdefault(destination.base, []), entry)

    def remove(self, entry: IndexedRule) -> None:
        """Take out an entry that is in here."""
        destination = entry.destination
        self._count -= 1
        if destination is None:
            _take(self._any, entry)
        elif isinstance(destination, Network):
            tables = self._networks[destination.size]
            table = tables[destination.shift]
            if not _take(table[destination.prefix], entry):
                del table[destination.prefix]
            if not table:
                del tables[destination.shift]
        else:
            names = self._called(destination)
            if not _take(names[destination.base], entry):
                del names[destination.base]

    def anywhere(self) -> list[Bucket]:
        """The rules whose destination is everything: `any`, and the networks of prefix length 0."""
        whole = [tables.get(8 * size, {}).get(0) for size, tables in self._networks.items()]
        return [bucket for bucket in (self._any, *whole) if bucket]

    def about(self, where: DestinationKeys) -> list[Bucket]:
        """Every rule that may speak of this destination, those of `any` aside; the same bucket may come twice."""
        found: list[Bucket] = []
        for shift, table in self._networks.get(where.size, {}).items():
            if bucket := table.get(where.value >> shift):
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
        """Every rule that may speak of this destination."""
        return [self._any, *self.about(where)] if self._any else self.about(where)

    def _called(self, pattern: Pattern) -> dict[str, Bucket]:
        if pattern.depth is Depth.EXACT:
            return self._exact
        return self._one if pattern.depth is Depth.ONE else self._deep


def _insert(bucket: Bucket, entry: IndexedRule) -> None:
    if bucket and entry.position < bucket[-1].position:
        insort(bucket, entry, key=POSITION)
    else:
        bucket.append(entry)


def _take(bucket: Bucket, entry: IndexedRule) -> Bucket:
    """Take an entry out of its bucket; what is left."""
    del bucket[bisect_left(bucket, entry.position, key=POSITION)]
    return bucket
