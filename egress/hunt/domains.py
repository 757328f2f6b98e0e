"""The destination of flows: the registered domain of a name that the agent resolved, else the address."""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from egress.policy.domain import canonical, is_address


@lru_cache(maxsize=65536)
def registrable(name: str) -> str:
    """Return the registered domain of a name (Public Suffix List); if there is none, the name in canonical spelling."""
    spelled = canonical(name)
    return _suffixes().privatesuffix(spelled) or spelled


def destination(said: str, bound: tuple[str, ...], address: str) -> str:
    """Return the destination of flows to an address: a registered domain, or the address.

    `said` is the name in the bytes, `bound` are the names that the agent had resolved to the address.
    The domain is that of the name in the bytes if the agent had resolved it to the address, else that of the first name
    (by alphabet) that it had resolved to the address. A name in the bytes alone proves nothing: any name can be written
    into a TLS hello.
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
