"""Targets: flows that rules can judge without a packet, made from a question or from a stored flow."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from egress.model import PROTOCOL_NUMBERS, TCP, UDP, Action, Agent, App, Mode, Rule
from egress.policy.domain import canonical, is_address
from egress.records.shape import RECORD_NAMES
from egress.store.query.flowgroups import FlowGroup

NAMING = frozenset(app for app in App if app.names_host)
DNS_PORT = 53


@dataclass(slots=True)
class Target:
    """A flow for rules to judge (`rulebook.Subject`) that no packet has begun and no rule has admitted."""

    proto: int  # IANA number; -1: unknown
    remote: bytes  # packed; b"": unknown, no rule by address matches
    rport: int
    app: str = ""
    excluded: frozenset[str] = frozenset()  # application protocols that it cannot be
    names: frozenset[str] = frozenset()
    said: str | None = None
    hidden: bool = False
    outbound: bool = True
    rule: Rule | None = None


def packed(address: str) -> bytes:
    """Return the address as 4 or 16 bytes; b"" if the text is not an address."""
    try:
        return ip_address(address).packed
    except ValueError:
        return b""


def protocol_number(name: str) -> int:
    """Return the number of a record's protocol; -1 if it is unknown."""
    number = PROTOCOL_NUMBERS.get(name)
    if number is not None:
        return number
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= 3 else -1


def recorded(
    proto: str,
    dst: str,
    dport: int,
    app: str,
    server_name: str,
    names: tuple[str, ...],
    action: Action,
    app_expected: str = "",
) -> Target:
    """Make the target of a stored flow, as the policy judged it last.

    A record is incomplete: of several names in the bytes it has the last, it does not show whether they hid another one
    (ECH), and it keeps at most RECORD_NAMES of the names bound to an address. If it has that many and the flow passed,
    the name in the bytes counts as bound, too.
    """
    number = protocol_number(proto)
    said = server_name if app in NAMING and number in (TCP, UDP) else None
    bound = frozenset(names)
    if said and action is Action.ACCEPT and len(names) >= RECORD_NAMES:
        bound |= {canonical(said)}
    excluded = frozenset(app_expected.split(",")) if app_expected else frozenset()
    return Target(number, packed(dst), dport, app, excluded, bound, said)


def target_of(group: FlowGroup) -> Target:
    """Make the target of a group of stored flows, see `recorded`."""
    return recorded(
        group.proto,
        group.dst,
        group.dport,
        group.app,
        group.server_name,
        group.names,
        group.action,
        group.app_expected,
    )


def query_of(group: FlowGroup) -> str:
    """Return the name that a DNS flow queried, the last of several; "" for other flows, and if no name was read."""
    return group.server_name if group.app == App.DNS else ""


def destination_of(group: FlowGroup) -> tuple[str, bool]:
    """Return the destination to show (the queried name, a name, or the address), and True if it is a queried name."""
    if query := query_of(group):
        return canonical(query), True
    said = canonical(group.server_name) if group.app in NAMING else ""
    if said and not is_address(said):
        return said, False
    return (min(group.names) if group.names else group.dst), False


def forgotten(name: str, mode: Mode = Mode.ENFORCE, default: Action = Action.REJECT) -> Agent:
    """Make an `Agent` for a name that is left in records only: without labels, with the given mode and default."""
    return Agent(name, mode=mode, default=default)
