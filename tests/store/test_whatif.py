"""The questions about stored flows mean the same on both databases."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from egress.model import Action, Agent, Policy, Reason, Rule
from egress.store.database.database import writing
from egress.store.recording.writer import store
from egress.whatif.learn import learn
from egress.whatif.simulate import simulate
from tests.store import samples

NAMED = samples.numbered(
    2, agent="rome", dst="203.0.113.9", dport=443, app_proto="tls", server_name="www.example.org",
    names=("www.example.org",), action=Action.ACCEPT, reason=Reason.RULE,
)  # fmt: skip
REFUSED = samples.numbered(
    3, agent="rome", dst="203.0.113.10", dport=22, app_proto="", server_name="", reason=Reason.DEFAULT
)


def test_simulate_and_learn(engine: Engine) -> None:
    with writing(engine) as connection:
        store(connection, [samples.FLOW, samples.FINDING, NAMED, REFUSED])
    agent = Agent("rome")
    with engine.connect() as connection:
        ssh = Rule("ssh", Action.ACCEPT, destination="203.0.113.10", ports=((22, 22),))
        found = simulate(connection, (ssh,), agents={"rome": agent})
        lesson = learn(connection, agent, Policy(), None, now=samples.START + 60)
        bolder = learn(connection, agent, Policy(), None, now=samples.START + 60, refused=True)
    assert (found.flows, found.newly_refused, found.newly_allowed) == (3, 1, 1)
    assert [rule.destination for rule in lesson.rules] == ["www.example.org"]
    assert sorted(rule.destination for rule in bolder.rules) == ["203.0.113.10", "www.example.org"]
