"""Groups wants (needs for a rule) into bundles, each covered by one rule, so that few rules result.

There is one rule per destination, a wildcard for names under one parent, a network for adjacent addresses. A bundle is
split again if its rule would admit a destination that was objected to or denied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address

from publicsuffixlist import PublicSuffixList

from egress.model import App, Rule
from egress.policy.applications import ANY, HTTPS, HTTPS_PORT
from egress.policy.domain import parse_pattern
from egress.policy.ruletext import MAX_PORTS, read_rule
from egress.records.times import iso

AUTHOR = "egress learn"
SIBLINGS = 3  # names under one parent that become a wildcard

_Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Want:
    """The need for a rule, of flows to one destination with one protocol, port and application. Times are seconds."""

    destination: str  # a name or an address
    proto: str  # as in records; "": any protocol that carries the application
    port: int  # 0: the protocol has no ports
    app: str
    unnamed: bool  # the destination is a name, and the bytes contain none
    private: bool  # the destination is a name, and its address is not global
    count: int  # flows
    first: float
    last: float

    @property
    def kind(self) -> str:
        """Return `dns`, `ports` (tcp, udp), or the protocol; wants of one kind may share a rule."""
        if self.app == App.DNS:
            return App.DNS.value
        return "ports" if self.proto in ("tcp", "udp") else self.proto


@dataclass(frozen=True, slots=True)
class Bundle:
    """Wants of one kind, covered by one rule."""

    destination: str  # a name, a wildcard, an address or a network
    wants: tuple[Want, ...]

    def rule(self, agent: str, now: float) -> Rule:
        """Make the narrowest rule with this destination for all wants. Raises InvalidRuleError if none is valid."""
        protocol, ports, app = self.shape
        count = sum(want.count for want in self.wants)
        first, last = min(want.first for want in self.wants), max(want.last for want in self.wants)
        flows = "1 flow" if count == 1 else f"{count} flows"
        item: dict[str, object] = {
            "action": "allow",
            "agent": agent,
            "destination": self.destination,
            "comment": f"learned from {flows}, {_second(first)}..{_second(last)}",
            "author": AUTHOR,
        }
        if protocol:
            item["protocol"] = int(protocol) if protocol.isdecimal() else protocol
        if ports:
            item["ports"] = [f"{low}-{high}" for low, high in ports]
        if app:
            item["app"] = app
        if self.unnamed:
            item["unnamed"] = True
        if self.private:
            item["private"] = True
        return replace(read_rule(item), created=now)

    @property
    def shape(self) -> tuple[str, tuple[tuple[int, int], ...], str]:
        """The (protocol, ports, application) of the rule; protocol and application are "" unless they are uniform.

        Ports are inclusive ranges. An unidentified application fits any. Where applications are not uniform, a name
        rule for port 443 says `any`: else it would demand TLS or QUIC.
        """
        protocols = {want.proto for want in self.wants}
        apps = {want.app for want in self.wants} - {""}
        protocol = protocols.pop() if len(protocols) == 1 else ""
        app = apps.pop() if len(apps) == 1 else ""
        if not app and not apps <= HTTPS and HTTPS_PORT in {want.port for want in self.wants}:
            app = ANY
        return protocol, _ranges({want.port for want in self.wants if want.port}), app

    @property
    def unnamed(self) -> bool:
        """True if the bytes of some flows have no name, so that the rule must have `unnamed`."""
        return any(want.unnamed for want in self.wants)

    @property
    def private(self) -> bool:
        """True if the address of some flows is not global, so that the rule must have `private`."""
        return any(want.private for want in self.wants)

    def parts(self) -> tuple[Bundle, ...]:
        """Split the bundle by name, or one name by protocol, port and application; none if it cannot be split."""
        by_name = tuple(_bundled(self.wants))
        if len(by_name) > 1 or (by_name and by_name[0].destination != self.destination):
            return _expressible(by_name)
        by_use: dict[tuple[str, int, str, bool, bool], list[Want]] = defaultdict(list)
        for want in self.wants:
            by_use[want.proto, want.port, want.app, want.unnamed, want.private].append(want)
        if len(by_use) > 1:
            return tuple(Bundle(self.destination, tuple(wants)) for wants in by_use.values())
        return ()


def bundle(wants: Iterable[Want]) -> list[Bundle]:
    """Group wants into the fewest bundles: one per destination and kind, SIBLINGS names under one parent together.

    Addresses stay single; `networks` merges them.
    """
    single = list(_bundled(wants))
    families: dict[tuple[str, str, bool, bool], list[Bundle]] = defaultdict(list)
    found = []
    for each in single:
        if parent := _parent(each.destination):
            families[parent, each.wants[0].kind, each.unnamed, each.private].append(each)
        else:
            found.append(each)
    for (parent, *_), members in families.items():
        if len(members) >= SIBLINGS:
            found.append(Bundle(f"*.{parent}", tuple(want for member in members for want in member.wants)))
        else:
            found += members
    return list(_expressible(found))


def safe(
    bundles: Iterable[Bundle], offending: Callable[[list[Bundle]], dict[int, str]]
) -> tuple[list[Bundle], dict[Want, str]]:
    """Return the bundles that may become rules, split where needed, and the wants that get no rule, with the reason.

    `offending` returns the bundles whose rule must not exist, index → reason; it need not find all at once.
    """
    good, refused = list(bundles), dict[Want, str]()
    while wrong := offending(good):
        kept = [each for index, each in enumerate(good) if index not in wrong]
        for index, why in sorted(wrong.items()):
            parts = good[index].parts()
            kept += parts
            if not parts:
                refused |= dict.fromkeys(good[index].wants, why)
        good = kept
    return good, refused


def networks(bundles: Iterable[Bundle]) -> list[Bundle]:
    """Merge bundles of addresses with equal `shape` into the fewest networks of exactly these addresses; return all."""
    found = []
    alike: dict[tuple[object, ...], dict[_Address, Bundle]] = defaultdict(dict)
    for each in bundles:
        address = address_of(each.destination)
        if address is None:
            found.append(each)
            continue
        alike[address.version, each.shape][address] = each
    for members in alike.values():
        found += _collapsed(members)
    return found


def _collapsed(members: dict[_Address, Bundle]) -> Iterator[Bundle]:
    """Yield a bundle for each network, or single address, of the fewest that have exactly these addresses."""
    four = [IPv4Network(address) for address in members if isinstance(address, IPv4Address)]
    six = [IPv6Network(address) for address in members if isinstance(address, IPv6Address)]
    found: list[IPv4Network | IPv6Network] = [*collapse_addresses(four), *collapse_addresses(six)]
    for network in found:
        inside = [members[address] for address in network if address in members]
        text = str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        yield Bundle(text, tuple(want for member in inside for want in member.wants))


def address_of(destination: str) -> _Address | None:
    """Return the destination as an address; None if it is a name."""
    try:
        return ip_address(destination)
    except ValueError:
        return None


def _bundled(wants: Iterable[Want]) -> Iterator[Bundle]:
    """Yield a bundle for each destination and kind."""
    groups: dict[tuple[str, str], list[Want]] = defaultdict(list)
    for want in wants:
        groups[want.destination, want.kind].append(want)
    for (destination, _), members in groups.items():
        yield Bundle(destination, tuple(members))


def _expressible(bundles: Iterable[Bundle]) -> tuple[Bundle, ...]:
    """Split the bundles that have more ranges of ports than a rule can have (MAX_PORTS); return all."""
    found: list[Bundle] = []
    for each in bundles:
        ranges = each.shape[1]
        limits = [(ranges[at][0], ranges[at : at + MAX_PORTS][-1][1]) for at in range(0, len(ranges), MAX_PORTS)]
        if len(limits) <= 1:
            found.append(each)
            continue
        found += (
            Bundle(each.destination, tuple(want for want in each.wants if first <= want.port <= last))
            for first, last in limits
        )
    return tuple(found)


def _parent(name: str) -> str:
    """Return the parent that may become a wildcard; "" for an address, or if the parent is a public suffix."""
    if address_of(name) is not None:
        return ""
    parent = name.partition(".")[2]
    if not parent or _suffixes().is_public(parent):
        return ""
    try:
        parse_pattern(f"*.{parent}")
    except ValueError:
        return ""  # too long
    return parent


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def _ranges(ports: set[int]) -> tuple[tuple[int, int], ...]:
    """Return the inclusive ranges that contain exactly these ports."""
    found: list[tuple[int, int]] = []
    for port in sorted(ports):
        if found and found[-1][1] == port - 1:
            found[-1] = found[-1][0], port
        else:
            found.append((port, port))
    return tuple(found)


def _second(ts: float) -> str:
    """Write a time in whole seconds, such as `2026-01-31T12:00:00Z`."""
    return iso(ts)[:19] + "Z"
