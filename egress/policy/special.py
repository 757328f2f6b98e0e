"""Special-purpose addresses: which addresses are global, and which IPv4 addresses an IPv6 address contains.

Addresses that are not global are those of IANA's special-purpose address registries (RFC 6890) that are not globally
reachable, and multicast. Addresses for documentation (RFC 5737, 3849, 9637) count as global: no host has one, and
examples, tests and labs use them in place of global ones (docs/adr/0032).
"""

from __future__ import annotations

from functools import lru_cache

from egress.addresses import Networks

# As of 2026-11: iana.org/assignments/iana-ipv4-special-registry, iana-ipv6-special-registry.
NOT_GLOBAL = (
    "0.0.0.0/8",  # this network, RFC 791
    "10.0.0.0/8",  # private, RFC 1918
    "100.64.0.0/10",  # shared by carriers (CGNAT), RFC 6598
    "127.0.0.0/8",  # loopback, RFC 1122
    "169.254.0.0/16",  # link-local, RFC 3927
    "172.16.0.0/12",  # private, RFC 1918
    "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
    "192.88.99.0/24",  # relays of 6to4, which are no hosts, RFC 7526
    "192.168.0.0/16",  # private, RFC 1918
    "198.18.0.0/15",  # benchmarks, RFC 2544
    "224.0.0.0/4",  # multicast, RFC 5771
    "240.0.0.0/4",  # reserved, and the broadcast address, RFC 1112
    "2001::/23",  # IETF protocol assignments, RFC 2928; Teredo is in it, too
)
GLOBAL = (
    "192.0.0.9/32",  # PCP, RFC 7723
    "192.0.0.10/32",  # TURN, RFC 8155
    "2000::/3",  # global unicast, RFC 4291; no other IPv6 address is
    "2001:1::1/128",  # PCP, RFC 7723
    "2001:1::2/128",  # TURN, RFC 8155
    "2001:1::3/128",  # DNS-SD, RFC 9665
    "2001:3::/32",  # AMT, RFC 7450
    "2001:4:112::/48",  # AS112, RFC 7535
    "2001:20::/28",  # ORCHIDv2, RFC 7343
    "2001:30::/28",  # DRIP, RFC 9374
)

MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291

_NOT_GLOBAL, _GLOBAL = Networks(NOT_GLOBAL), Networks(GLOBAL)
_TRANSLATED = bytes.fromhex("0064ff9b") + bytes(8)  # 64:ff9b::/96, RFC 6052
_LOCALLY_TRANSLATED = bytes.fromhex("0064ff9b0001")  # 64:ff9b:1::/48, RFC 8215
_SIIT = bytes(8) + b"\xff\xff\0\0"  # ::ffff:0:0:0/96, RFC 2765
_COMPATIBLE = bytes(12)  # ::/96, RFC 4291
_TEREDO = bytes.fromhex("20010000")  # 2001::/32, RFC 4380
_6TO4 = bytes.fromhex("2002")  # 2002::/16, RFC 3056
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))  # of an interface identifier, RFC 5214
_SAME_HOST = frozenset((MAPPED, _TRANSLATED))


@lru_cache(maxsize=4096)
def is_global(address: bytes) -> bool:
    """Return True if a packed address is global; one that embeds IPv4 addresses, only if all of these are, too."""
    if len(address) == 4:
        return address in _GLOBAL or address not in _NOT_GLOBAL
    inner = embedded(address)
    if inner and not all(map(is_global, inner)):
        return False
    if address[:12] in _SAME_HOST or address[:4] == _TEREDO:
        return bool(inner)
    found, other = _GLOBAL.longest(address), _NOT_GLOBAL.longest(address)
    return found is not None and (other is None or found.shift < other.shift)


def same_host(address: bytes) -> bytes | None:
    """Return the IPv4 address of the same host, if a packed IPv6 address is another form of it; else None.

    Two forms have one certain reading: IPv4-mapped addresses, and those with NAT64's well-known prefix.
    """
    return address[12:] if len(address) == 16 and address[:12] in _SAME_HOST else None


def embedded(address: bytes) -> tuple[bytes, ...]:
    """Return the packed IPv4 addresses to which a translator or a tunnel may send packets for an IPv6 address.

    The forms are mapped, compatible, SIIT, NAT64 (with the local prefix: each reading of RFC 6052), 6to4, Teredo
    (server and client) and ISATAP. Addresses in 0.0.0.0/8 are left out: no host is there. Empty for an IPv4 address.
    """
    if len(address) != 16:
        return ()
    head, tail = address[:12], address[12:]
    found: tuple[bytes, ...] = ()
    if head in _SAME_HOST or head in (_SIIT, _COMPATIBLE):
        found = (tail,)
    elif head[:6] == _LOCALLY_TRANSLATED:
        # Prefixes of 48, 56, 64 and 96 bits; byte 8 is never part of the address (RFC 6052 section 2.2).
        a = address
        found = (a[6:8] + a[9:11], a[7:8] + a[9:12], a[9:13], tail)
    elif head[:2] == _6TO4:
        found = (address[2:6],)
    elif head[:4] == _TEREDO:
        found = (address[4:8], bytes(byte ^ 0xFF for byte in tail))
    if head[8:] in _ISATAP:
        found += (tail,)
    return tuple(each for each in dict.fromkeys(found) if each[0])
