"""The protocols that a rule demands: by `app`, by a name on port 443, or none."""

from __future__ import annotations

import pytest

from egress.model import SCTP, TCP, UDP, Action, App, Rule
from egress.policy.applications import KNOWN, covered, demanded

HTTPS = {App.TLS, App.QUIC}


def rule(app: str = "", *ports: tuple[int, int]) -> Rule:
    return Rule("r", Action.ACCEPT, app=app, ports=ports)


@pytest.mark.parametrize(
    "asked, proto, port, named, wanted",
    [
        (rule("ssh"), TCP, 443, True, {App.SSH}),
        (rule("http"), TCP, 80, False, {App.HTTP, App.HTTP2}),
        (rule("any", (443, 443)), TCP, 443, True, set()),
        (rule("", (443, 443)), TCP, 443, True, HTTPS),
        (rule("", (80, 80), (443, 443)), UDP, 443, True, HTTPS),
        (rule("", (80, 80), (443, 443)), TCP, 80, True, set()),
        (rule("", (443, 443)), TCP, 443, False, set()),
        (rule("", (443, 444)), TCP, 443, True, set()),
        (rule("", (443, 443)), SCTP, 443, True, set()),
        (rule(), TCP, 443, True, set()),
    ],
)
def test_what_a_rule_demands(asked: Rule, proto: int, port: int, *, named: bool, wanted: set[str]) -> None:
    assert demanded(asked, proto, port, named=named) == wanted


def test_every_known_name_covers_itself_and_any_covers_nothing_in_particular() -> None:
    assert all(app in covered(app) for app in App)
    assert covered("any") == covered("") == frozenset()
    assert set(App) | {"any"} == KNOWN
