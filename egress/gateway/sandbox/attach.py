"""Resolve an attachment of `egress agent add`, by kind and value: the agent's interface and its networks.

| kind      | value          | interface                     | networks                                           |
|-----------|----------------|-------------------------------|----------------------------------------------------|
| netns     | its name       | our end of its first veth     | its subnets: no other agent uses the link          |
|           |                | the bridge that our end is in | its addresses alone: others are on that bridge too |
| interface | veth or bridge | that interface                | subnets connected to it, without the host's own    |
| cidr      | CIDR@interface | that interface                | that CIDR                                          |

The facts come from the kernel, through `ip -json`. Every error names the right form. Root inside a namespace may remove
its addresses at any time: so `behind` finds the interface without them, and the networks are read once, when the agent
is added.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress.errors import InputError
from egress.gateway.kernel.attachment import check_interface
from egress.gateway.kernel.command import run

KINDS = ("netns", "interface", "cidr")
STACKED = ("macvlan", "macvtap", "ipvlan", "ipvtap", "vlan")  # kinds of interfaces on top of another
_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """The place where an agent is attached: its interface on this host and its networks."""

    agent: str
    interface: str
    networks: tuple[str, ...]  # CIDRs, both families
    others: tuple[str, ...] = ()  # further interfaces of this host that lead into the namespace
    outside: tuple[str, ...] = ()  # the namespace's interfaces that lead past this host's network stack


def resolve(kind: str, value: str, name: str) -> AttachPoint:
    """Look up the attachment `kind` and `value` (see the module's table) of agent `name`.

    Raises InputError if it is not valid or cannot be resolved now, EgressError if the tools fail.
    """
    if kind == "netns":
        return _netns(value, name)
    if kind == "interface":
        return _interface(value, name)
    if kind == "cidr":
        return _cidr(value, name)
    raise InputError(f"{kind!r} is not a kind of attachment: use one of {', '.join(KINDS)}")


def behind(kind: str, value: str) -> str:
    """Find the interface of an attachment without its addresses, to guard it while `resolve` fails.

    Returns an empty text if the interface is unknown or may not be guarded. Raises EgressError if the tools fail.
    """
    if kind == "netns":
        try:
            return _veths(value)[0][0]
        except InputError:
            return ""
    interface = value.rpartition("@")[2]
    try:
        _link(interface)
    except InputError:
        return "" if (Path("/sys/class/net") / interface).exists() else interface  # rules by name wait for it
    return interface


def _netns(value: str, name: str) -> AttachPoint:
    (interface, inside, shared), *more = _veths(value)
    networks = [str(ipaddress.ip_network(each.ip) if shared else each.network) for each in _addresses(inside)]
    if not networks:
        raise InputError(f"namespace {value} has no address on its veth: give it one, then add the agent")
    others = dict.fromkeys(each for each, _, _ in more if each != interface)
    return AttachPoint(name, interface, tuple(dict.fromkeys(networks)), tuple(others), _past(value))


def _veths(value: str) -> list[tuple[str, dict[str, Any], bool]]:
    """Find the veths that lead from this namespace into the namespace `value`, the oldest first.

    Returns of each: our end's name, or that of the bridge which our end is a port of; the end inside, as `ip -json`
    prints it; True if there is a bridge. Raises InputError if there is no such veth.
    """
    namespaces = {each["name"]: each.get("id") for each in _ask("netns", "list")}
    if value not in namespaces:
        known = ", ".join(sorted(namespaces)[:8]) or "none"
        raise InputError(f"no network namespace {value!r}: `ip netns list` has {known}")
    inside = {each["ifindex"]: each for each in _ask("-n", value, "address", "show")}
    found = []
    for link in _ask("-d", "link", "show"):
        ours = namespaces[value] is not None and link.get("link_netnsid") == namespaces[value]
        if ours and link.get("linkinfo", {}).get("info_kind") == "veth" and link.get("link_index") in inside:
            interface = str(link.get("master", link["ifname"]))
            check_interface(interface, value)
            found.append((interface, inside[link["link_index"]], "master" in link))
    if found:
        return found
    raise InputError(
        f"namespace {value} has no veth to this one: "
        f"`ip link add NAME type veth peer name eth0 netns {value}`, then give both ends addresses"
    )


def _past(value: str) -> tuple[str, ...]:
    """List a namespace's interfaces whose packets never come to this host's network stack.

    They are devices that were moved into it, and those on top of another namespace's device (macvlan, ipvlan, vlan).
    """
    found = []
    for link in _ask("-n", value, "-d", "link", "show"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        moved = not kind and link.get("link_type") == "ether"
        if moved or (kind in STACKED and "link_netnsid" in link):
            found.append(str(link["ifname"]))
    return tuple(found)


def _interface(value: str, name: str) -> AttachPoint:
    link = _link(value)
    if "master" in link:
        raise InputError(f"{value} is a port of bridge {link['master']}: add `interface {link['master']}` instead")
    networks = tuple(str(part) for each in _addresses(link) for part in each.network.address_exclude(_host(each)))
    if not networks:
        raise InputError(f"{value} has no address: name the agent's networks, as CIDR@{value}")
    return AttachPoint(name, value, networks)


def _cidr(value: str, name: str) -> AttachPoint:
    cidr, at, interface = value.rpartition("@")
    if not at:
        raise InputError(f"{value!r} is not CIDR@interface, e.g. 10.5.0.0/24@eth1")
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise InputError(f"{error}: write CIDR@interface, e.g. 10.5.0.0/24@eth1") from None
    _link(interface)
    return AttachPoint(name, interface, (str(network),))


def _link(interface: str) -> dict[str, Any]:
    """Read an interface with its addresses, as `ip -json` prints it.

    Raises InputError if there is none, or it has the host's default route, or is its loopback.
    """
    if not interface or not (Path("/sys/class/net") / interface).is_dir() or "/" in interface:
        raise InputError(f"no interface {interface!r}: see `ip link`")
    check_interface(interface, interface)
    if any(route.get("dev") == interface for v in ("-4", "-6") for route in _ask(v, "route", "show", "default")):
        raise InputError(f"{interface} is this host's way out, not an agent's: name the interface the agent is behind")
    link: dict[str, Any] = next(iter(_ask("address", "show", "dev", interface)))
    if "LOOPBACK" in link["flags"]:
        raise InputError(f"{interface} is the host's own: name the interface the agent is behind")
    return link


def _addresses(link: dict[str, Any]) -> Iterator[_Interface]:
    for each in link.get("addr_info", []):
        if each.get("scope") == "global":
            yield ipaddress.ip_interface(f"{each['local']}/{each['prefixlen']}")


def _host(each: _Interface) -> Any:
    return ipaddress.ip_network(each.ip)


def _ask(*argv: str) -> list[dict[str, Any]]:
    text = run("ip", "-json", *argv)
    return [each for each in json.loads(text or "[]") if each]
