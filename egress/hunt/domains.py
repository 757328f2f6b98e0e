"""What a destination is called: by the domain somebody registered where the agent resolved a name, else its address."""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from egress.policy.domain import canonical, is_address


@lru_cache(maxsize=65536)
def registrable(name: str) -> str:
    """The domain that somebody registered, of a name below it; the name itself where there is none."""
    spelled = canonical(name)
    return _suffixes().privatesuffix(spelled) or spelled


def destination(said: str, bound: tuple[str, ...], address: str) -> str:
    """The registrable domain of flows to an address.

    The name in the bytes counts where the agent had resolved it to that address, else the first name that it had
    resolved to it. A name that was only said proves nothing: anybody can write one into a hello.
    """
    if not bound:
        return address
    name = canonical(said)
    if name not in map(canonical, bound):
        name = canonical(min(bound))
    return address if not name or is_address(name) else registrable(name)


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
