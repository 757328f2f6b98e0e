"""The addresses at which clouds serve metadata to their machines: names, user data and, often, credentials.

The cloud answers an agent as if it were the machine on which egress runs. So a flow to these addresses is refused
whatever the agent's default is, unless an allow rule has exactly this address as its destination: `any`, a larger CIDR
or a name is not enough (`egress.policy.rulebook`).

DNS and NTP are left to the rules: some clouds serve them at the same addresses, and honest agents need them.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from egress.model import TCP, UDP
from egress.policy.special import embedded

# As of 2026-11, from the vendors' documentation of their metadata services.
SERVICES: dict[str, str] = {
    "169.254.169.254": "AWS, Azure, Google Cloud, Oracle, IBM, DigitalOcean, Hetzner, OpenStack and others",
    "fd00:ec2::254": "AWS",
    "169.254.170.2": "AWS ECS, credentials of tasks",
    "169.254.170.23": "AWS EKS, credentials of pods",
    "fd00:ec2::23": "AWS EKS, credentials of pods",
    "168.63.129.16": "Azure, wire server",
    "fd20:ce::254": "Google Cloud",
    "169.254.169.252": "Google GKE, workload identity",
    "100.100.100.200": "Alibaba Cloud",
    "fd00:100::100:200": "Alibaba Cloud",
    "169.254.0.23": "Tencent Cloud",
    "100.96.0.96": "Volcano Engine",
    "192.0.0.192": "Oracle Cloud Classic",
    "fd00:c1::a9fe:a9fe": "Oracle Cloud",
    "fe80::a9fe:a9fe": "OpenStack, Akamai",
    "fd00:a9fe:a9fe::1": "Akamai (Linode)",
    "169.254.42.42": "Scaleway",
    "fd00:42::42": "Scaleway",
}
DNS, NTP = 53, 123

_SERVICES = {ip_address(text).packed: cloud for text, cloud in SERVICES.items()}


@lru_cache(maxsize=4096)
def cloud_at(address: bytes) -> str:
    """Return the names of the clouds that serve metadata at a packed address, as text; "" if none does.

    An IPv6 address counts also if it embeds such an IPv4 address (`egress.policy.special.embedded`).
    """
    found = _SERVICES.get(address, "")
    return found or next((_SERVICES[each] for each in embedded(address) if each in _SERVICES), "")


def is_metadata(address: bytes, proto: int, port: int) -> bool:
    """Return True if a flow to this packed address, IP protocol and port may reach a metadata service."""
    if not cloud_at(address):
        return False
    return not ((port == DNS and proto in (TCP, UDP)) or (port == NTP and proto == UDP))
