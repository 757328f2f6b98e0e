"""Random lives of flows: every move that any order of events causes is in the table of stages."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.engine import Engine
from egress.engine.stage import KERNEL_SETTLED, Stage
from egress.limits import Limits
from egress.model import Action, Agent, Budget, BudgetSpan, Direction, Measure, Mode, Policy, PolicyChange, Rule
from signatures import load
from tests.engine.resolver import RESOLVER4, framed, question, reply
from tests.examples import examples
from tests.traffic import AGENT4, START, Talk, agent, client_hello, udp

OUT, IN = Direction.OUT, Direction.IN
NAMES = ("www.example.test", "other.example.test", "evil.test")
SERVERS = ("203.0.113.9", "203.0.113.10", "198.51.100.7")
BYTES = (
    b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n',
    b"SSH-2.0-x\r\n",
    b"GET / HTTP/1.1\r\nHost: www.example.test\r\n\r\n",
    b"\x16\x03\x03\x00\x04\x02\x00\x00\x00" + bytes(40),
    bytes(range(128, 256)) * 30,
    framed(question("evil.test")),
    client_hello("evil.test"),
)


def some_agent(rng: random.Random, name: str) -> Agent:
    budget = Budget(rng.choice(list(Measure)), rng.choice([3, 5000]), BudgetSpan.MINUTE)
    return agent(
        name=name,
        mode=rng.choice(list(Mode)),
        default=rng.choice([Action.ACCEPT, Action.REJECT]),
        quarantined=rng.random() < 0.1,
        budgets=rng.choice([(), (), (budget,)]),
    )


def some_rules(rng: random.Random, ts: float, serial: int) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"r{serial}.{number}",
            rng.choice([Action.ACCEPT, Action.ACCEPT, Action.ACCEPT, Action.REJECT]),
            destination=rng.choice(["any", *SERVERS, *NAMES, RESOLVER4]),
            app=rng.choice(["", "", "ssh", "tls", "dns"]),
            once=rng.random() < 0.2,
            expires_at=rng.choice([None, ts + rng.randrange(60)]),
        )
        for number in range(rng.randrange(4))
    )


class World:
    """An engine, two agents and their conversations; each step does one thing at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.ts, self.version = rng, START, 0
        few = rng.random() < 0.3
        limits = Limits(
            settle_bytes=rng.choice([2000, 20000]),
            max_flows_agent=4 if few else 50,
            max_buffered=rng.choice([30000, 10**7]),
            destination_timeout=rng.choice([3.0, 3600.0]),
            ask_timeout=20.0,
        )
        self.engine = Engine(limits, Policy(0), load())
        self.agents = {name: some_agent(rng, name) for name in ("a1", "a2")}
        self.talks: list[tuple[Talk, str]] = []
        self.met: Counter[Stage] = Counter()

    def step(self) -> None:
        self.ts += self.rng.choice([0.0, 0.01, 0.5, 3.0, 40.0])
        self.rng.choice([self.speak, self.speak, self.speak, self.ask, self.edit, self.switch, self.wait])()
        self.engine.ended_holds()
        for flow in self.engine._tracker.flows():
            self.met[flow.stage] += 1
            answer = flow.outcome.verdict
            assert (answer.action is Action.HOLD) is (flow.stage is Stage.HELD) is bool(flow.hold)
            assert (answer.action is Action.REJECT) is (flow.stage is Stage.REFUSED)
            assert answer.settled is flow.verdict.settled is (flow.stage in KERNEL_SETTLED)
            assert flow.stage not in (Stage.NEW, Stage.FORGOTTEN)

    def packet(self, raw: bytes, who: str, direction: Direction) -> None:
        self.engine.packet(raw, self.ts, self.agents[who], direction, settled=self.rng.random() < 0.1)

    def speak(self) -> None:
        """Open a conversation or continue one."""
        if len(self.talks) < 6 or self.rng.random() < 0.2:
            talk = Talk(40000 + self.rng.randrange(9), self.rng.choice([443, 22, 53]), remote=self.rng.choice(SERVERS))
            self.talks = [*self.talks[-5:], (talk.open(), self.rng.choice(["a1", "a2"]))]
        talk, who = self.rng.choice(self.talks)
        side = talk.client if self.rng.random() < 0.7 else talk.server
        side(self.rng.choice(BYTES))
        for step in talk.steps:
            self.packet(step.raw, who, step.direction)
        talk.steps.clear()

    def ask(self) -> None:
        """Send a query, receive an answer, send a datagram."""
        name, who, port = self.rng.choice(NAMES), self.rng.choice(["a1", "a2"]), 5000 + self.rng.randrange(3)
        self.packet(udp(AGENT4, RESOLVER4, port, 53, question(name)), who, OUT)
        self.packet(udp(RESOLVER4, AGENT4, 53, port, reply(name, (name, self.rng.choice(SERVERS)))), who, IN)
        data = self.rng.choice([b"x" * 30, b"\xc0\0\0\0\1" + bytes(1300)])
        self.packet(udp(AGENT4, self.rng.choice(SERVERS), port, 443, data), who, OUT)

    def edit(self) -> None:
        rules, self.version = some_rules(self.rng, self.ts, self.version), self.version + 1
        if self.rng.random() < 0.5:
            self.engine.set_policy(Policy(self.version, rules), self.ts)
        else:
            self.engine.change_policy(PolicyChange(self.version - 1, self.version, (), rules), self.ts)

    def switch(self) -> None:
        """Change or release an agent; have a destination refused as a finding would."""
        name = self.rng.choice(["a1", "a2"])
        self.agents[name] = some_agent(self.rng, name)
        if self.rng.random() < 0.3:
            self.engine.change_agent(self.agents[name], self.ts)
        if self.rng.random() < 0.1:
            self.engine.release(name, self.ts)
        for flow in self.rng.sample(flows := self.engine._tracker.flows(), min(1, len(flows))):
            self.engine._judge.refuse_destination(flow, self.ts)

    def wait(self) -> None:
        self.engine.tick(self.ts)
        assert self.engine.next_tick() > self.ts
        for hold in self.rng.sample(sorted(self.engine.holds), min(1, len(self.engine.holds))):
            self.engine.answer(hold, Action.REJECT, self.ts)


def live(seed: int) -> World:
    world = World(random.Random(seed))
    for _ in range(120):
        world.step()
    world.engine.shutdown(world.ts)
    return world


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_comes_every_move_is_in_the_table(seed: int) -> None:
    live(seed)


def test_the_random_lives_reach_every_stage() -> None:
    met: Counter[Stage] = sum((live(seed).met for seed in range(12)), Counter())
    assert set(met) == set(Stage) - {Stage.NEW, Stage.FORGOTTEN}
