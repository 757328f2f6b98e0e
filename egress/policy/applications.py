"""The application protocols that a rule demands of the flows it admits, and the protocols that a name for one covers.

An allow rule with `app` demands that protocol. A name rule without one that lists port 443 itself (not within a range)
demands TLS or QUIC on that port; `app: any` demands nothing. `app: http` is HTTP of any version in the clear.
"""

from __future__ import annotations

from functools import cache

from egress.model import TCP, UDP, App, Rule

ANY = "any"
KNOWN = frozenset(app.value for app in App) | {ANY}  # the values of `Rule.app`, besides ""
HTTPS_PORT = 443
NOTHING: frozenset[str] = frozenset()
HTTPS: frozenset[str] = frozenset((App.TLS, App.QUIC))


def demanded(rule: Rule, proto: int, port: int, *, named: bool) -> frozenset[str]:
    """Return the protocols of which a flow must be one to be admitted by an allow rule; empty: any.

    `named`: the rule's destination is a name.
    """
    if rule.app:
        return covered(rule.app)
    if named and port == HTTPS_PORT and proto in (TCP, UDP) and (HTTPS_PORT, HTTPS_PORT) in rule.ports:
        return HTTPS
    return NOTHING


@cache
def covered(app: str) -> frozenset[str]:
    """Return the protocols that `Rule.app` stands for; empty: any."""
    if app in ("", ANY):
        return NOTHING
    return frozenset((App.HTTP, App.HTTP2)) if app == App.HTTP else frozenset((app,))
