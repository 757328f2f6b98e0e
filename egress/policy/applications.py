"""The application protocols that an allow rule demands: a flow that is none of them is not admitted by the rule.

A rule with `app` demands that protocol; `app: http` stands for HTTP of any version in the clear, and `app: any` demands
nothing. A rule without `app` demands nothing either, with one exception: if its destination is a name and it lists port
443 itself (not within a range), it demands TLS or QUIC on that port.
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
    """Return the protocols that an allow rule demands of a flow with this IP protocol and port; empty: any will do.

    `named`: True if the rule's destination is a name.
    """
    if rule.app:
        return covered(rule.app)
    if named and port == HTTPS_PORT and proto in (TCP, UDP) and (HTTPS_PORT, HTTPS_PORT) in rule.ports:
        return HTTPS
    return NOTHING


@cache
def covered(app: str) -> frozenset[str]:
    """Return the protocols for which this value of `Rule.app` stands; empty: any will do."""
    if app in ("", ANY):
        return NOTHING
    return frozenset((App.HTTP, App.HTTP2)) if app == App.HTTP else frozenset((app,))
