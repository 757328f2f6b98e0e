"""Packed addresses (4 or 16 bytes) and the networks that contain them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import NamedTuple


class Network(NamedTuple):
    """A CIDR as numbers: contains a packed address of `size` bytes if `int.from_bytes(address) >> shift == prefix`."""

    size: int  # bytes of an address
    shift: int  # host bits
    prefix: int  # the network's address without them

    @classmethod
    def parse(cls, text: str) -> Network:
        """Parse an address or a CIDR; host bits may be set. Raises ValueError for anything else."""
        network = ip_network(text, strict=False)
        shift = network.max_prefixlen - network.prefixlen
        return cls(network.max_prefixlen // 8, shift, int(network.network_address) >> shift)


class Networks:
    """A set of networks; `packed_address in networks` is True if one of them contains the address.

    The constructor takes addresses and CIDRs as text, and raises ValueError for any other text.
    A look-up takes time by the number of different prefix lengths, not by the number of networks.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        tables: dict[tuple[int, int], set[int]] = {}
        for size, shift, prefix in map(Network.parse, networks):
            tables.setdefault((shift, size), set()).add(prefix)
        self._tables = tuple((size, shift, frozenset(tables[shift, size])) for shift, size in sorted(tables))

    def __contains__(self, address: bytes) -> bool:
        return self.longest(address) is not None

    def longest(self, address: bytes) -> Network | None:
        """Return the network with the longest prefix that contains this packed address; None if no network does."""
        value, length = int.from_bytes(address), len(address)
        for size, shift, prefixes in self._tables:
            if size == length and value >> shift in prefixes:
                return Network(size, shift, value >> shift)
        return None
