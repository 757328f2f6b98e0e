"""Approvals: the first decision wins and makes exactly the rule that was asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
from sqlalchemy.engine import Connection, Engine

from egress.errors import InputError
from egress.model import Action, Hold, Rule
from egress.store.database.database import writing
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.policy import approvals, audit, ruleset
from egress.store.policy.approvals import Approval
from egress.store.policy.audit import Actor

ANN, BOB = Actor("token:0000000a (ann)"), Actor("token:0000000b (bob)")
FOREVER, ONCE = (None, False), (None, True)
NOW = 1_795_446_362.5
HOLD = Hold("00000000000000a1", "00000000000000a1", "train-1", NOW, NOW + 120, "tcp", "198.51.100.7", 443,
            ("a.example",), False, "a.example")  # fmt: skip
QUERY = replace(HOLD, id="00000000000000b2", proto="udp", dport=53, query=True)


def _asked(connection: Connection, hold: Hold = HOLD) -> Approval:
    approvals.ask(connection, hold)
    found = approvals.get(connection, hold.id)
    assert found == Approval(**asdict(hold))
    return found


def test_an_approval_is_a_rule(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection)
        done = approvals.approve(connection, ANN, HOLD.id, expires=(NOW + 3600, False), ts=NOW + 1)
        assert (done.state, done.decided_at, done.decided_by) == ("approved", NOW + 1, ANN.name)
        assert approvals.get(connection, HOLD.id) == done
        made = ruleset.rule(connection, done.rule_id or "")
        assert made is not None and made.source == "allowlist"
        assert made.rule == Rule(
            made.rule.id, Action.ACCEPT, "train-1", "a.example", "tcp", ((443, 443),), expires_at=NOW + 3600,
            comment=f"approval {HOLD.id}", author=ANN.name, created=NOW + 1, position=-1,
        )  # fmt: skip
        assert [entry.action for entry in audit.entries(connection, limit=9)] == ["approval.approve", "rule.create"]
        with pytest.raises(ConflictError, match="already approved by token:0000000a"):
            approvals.deny(connection, BOB, HOLD.id, NOW + 2)
        assert approvals.denied(connection, [HOLD.id]) == set()


def test_a_query_allows_the_name_on_any_port(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection, QUERY)
        done = approvals.approve(connection, ANN, QUERY.id, expires=ONCE, ts=NOW + 1)
        made = ruleset.rule(connection, done.rule_id or "")
    assert made is not None and (made.rule.protocol, made.rule.ports, made.rule.once) == ("", (), True)


def test_a_rule_that_is_there_is_taken(engine: Engine) -> None:
    with writing(engine) as connection:
        for hold in (HOLD, replace(HOLD, id="00000000000000a3")):
            _asked(connection, hold)
            approvals.approve(connection, ANN, hold.id, expires=FOREVER, ts=NOW + 1)
        first, second = approvals.listed(connection, state="approved")
        assert first.rule_id == second.rule_id
        assert len(ruleset.list_rules(connection, ruleset.RuleFilter(), None, 9)) == 1


def test_a_refusal(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection)
        assert approvals.deny(connection, BOB, HOLD.id, NOW + 1).state == "denied"
        assert approvals.denied(connection, [HOLD.id, "nothing"]) == {HOLD.id}
        assert ruleset.current(connection) == 0
        with pytest.raises(ConflictError, match="already denied by token:0000000b"):
            approvals.approve(connection, ANN, HOLD.id, expires=FOREVER, ts=NOW + 2)
        _asked(connection, replace(HOLD, time=NOW + 200, until=NOW + 320))
        assert approvals.denied(connection, [HOLD.id]) == set()


def test_nobody_answers_in_time(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection)
        with pytest.raises(ConflictError, match="expired"):
            approvals.approve(connection, ANN, HOLD.id, expires=FOREVER, ts=HOLD.until)
        assert approvals.close(connection, HOLD.id, "expired", HOLD.until)
        assert not approvals.close(connection, HOLD.id, "withdrawn", HOLD.until)
        assert approvals.get(connection, HOLD.id) == Approval(**asdict(HOLD), state="expired", decided_at=HOLD.until)
        with pytest.raises(NotFoundError, match="no approval nothing"):
            approvals.deny(connection, ANN, "nothing", NOW)


def test_a_new_gateway_knows_nothing_of_old_holds(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection)
        _asked(connection, QUERY)
        approvals.deny(connection, ANN, QUERY.id, NOW + 1)
        assert approvals.withdraw_all(connection, NOW + 2) == 1
        assert [found.state for found in approvals.listed(connection)] == ["denied", "withdrawn"]


def test_listed_in_pages_by_state_agent_and_scope(engine: Engine) -> None:
    holds = [
        replace(
            HOLD, id=f"{number:016x}", time=NOW + number // 2, agent=f"{'train' if number % 2 else 'eval'}-{number}"
        )
        for number in range(6)
    ]
    with writing(engine) as connection:
        for hold in holds:
            approvals.ask(connection, hold)
            approvals.ask(connection, hold)
        page = approvals.listed(connection, limit=4)
        rest = approvals.listed(connection, before=(page[-1].time, page[-1].id))
        assert [found.id for found in (*page, *rest)] == [hold.id for hold in reversed(holds)]
        assert [found.agent for found in approvals.listed(connection, agent="train-*")] == [
            "train-5",
            "train-3",
            "train-1",
        ]
        assert [found.agent for found in approvals.listed(connection, scope=("eval-4", "x*"))] == ["eval-4"]
        assert approvals.listed(connection, scope=()) == () == approvals.listed(connection, state="denied")


@pytest.mark.parametrize("hostile", ["*.example.org", "**.org", "any", "10.0.0.0/8", "", "a b", "x\x00y.org", "[::1]"])
def test_an_agent_cannot_ask_for_more_than_one_name(engine: Engine, hostile: str) -> None:
    """A name comes out of the agent's own packets: `*` is a label that DNS allows."""
    with writing(engine) as connection:
        approvals.ask(connection, replace(HOLD, destination=hostile))
        with pytest.raises(InputError, match="deny it"):
            approvals.approve(connection, ANN, HOLD.id, expires=FOREVER, ts=NOW + 1)
        assert ruleset.current(connection) == 0


def test_other_protocols(engine: Engine) -> None:
    with writing(engine) as connection:
        for number, (proto, wanted) in enumerate([("icmp", "icmp"), ("47", "gre"), ("253", "253")]):
            hold = replace(HOLD, id=f"{number:016x}", proto=proto, dport=0, destination="2001:db8::7")
            _asked(connection, hold)
            done = approvals.approve(connection, ANN, hold.id, expires=FOREVER, ts=NOW + 1)
            made = ruleset.rule(connection, done.rule_id or "")
            assert made is not None and (made.rule.protocol, made.rule.ports) == (wanted, ())


def test_the_first_decision_wins(engine: Engine) -> None:
    with writing(engine) as connection:
        _asked(connection)

    def decide(number: int) -> bool:
        try:
            with writing(engine) as connection:
                if number % 2:
                    approvals.deny(connection, BOB, HOLD.id, NOW + 1)
                else:
                    approvals.approve(connection, ANN, HOLD.id, expires=FOREVER, ts=NOW + 1)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(decide, range(8))) == 1
    with engine.connect() as connection:
        decided = approvals.get(connection, HOLD.id)
        assert decided is not None and ruleset.current(connection) == (decided.state == "approved")
