"""The policy in the database: edits make versions, and any version, or what leads from one to another, can be read."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Agent, Policy, PolicyChange, Rule
from egress.policy.ruletext import to_mapping
from egress.store.database.database import open_database, writing
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.policy import audit, ruleset
from egress.store.policy.agents import StoredAgent, add_agent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.policy.ruleset import Hits, RuleFilter, StoredRule
from egress.store.recording.writer import store
from tests.store import samples

ROOT, GATEWAY = Actor("uid:0 (root)"), Actor("gateway")
NOW = 1_795_446_362.25
SSH = Rule("ssh", Action.ACCEPT, destination="192.0.2.0/24", protocol="tcp", ports=((22, 22), (2200, 2299)), app="ssh")
NAMED = Rule("named", Action.ACCEPT, agent="label:gpu", destination="**.example.org", unnamed=True, private=True,
             expires_at=1_896_091_200.000001, author="ops", created=NOW - 60)  # fmt: skip
WEB = Rule("web", Action.ACCEPT, ports=((443, 443),), exempt=("beacon.*",), comment="über", once=True)
DENY = Rule("deny", Action.REJECT, agent="train-*", destination="198.51.100.7")


def _edit(connection: Connection, actor: Actor = ROOT, ts: float = NOW) -> Edit:
    return Edit(connection, actor, ts)


def _live(connection: Connection) -> list[str]:
    policy = ruleset.snapshot(connection)
    return [rule.id for rule in policy.rules] if policy else []


def test_every_field_of_a_rule_comes_back(engine: Engine) -> None:
    spoken = {field.name for rule in (SSH, WEB, NAMED) for field in fields(Rule) if getattr(rule, field.name)}
    assert spoken == {field.name for field in fields(Rule)} - {"position"}
    with writing(engine) as connection:
        assert ruleset.snapshot(connection) is None and ruleset.current(connection) == 0
        made = _edit(connection).add((SSH, WEB, NAMED))
        assert [each.rule.position for each in made] == [-3, -2, -1]
        assert [each.rule.created for each in made] == [NOW, NOW, NOW - 60]
        assert ruleset.snapshot(connection) == Policy(1, tuple(each.rule for each in made))
        assert ruleset.rule(connection, "web") == made[1] == StoredRule(made[1].rule, "allowlist", 1)
        assert ruleset.snapshot(connection, 2) is None and ruleset.snapshot(connection, 0) is None


def test_the_newest_speaks_first_and_an_edited_rule_stays_where_it_is(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (DENY, replace(DENY, id="deny2")))
        _edit(connection).add([SSH, NAMED])
        _edit(connection).add([WEB])
        assert _live(connection) == ["web", "ssh", "named", "deny", "deny2"]
        edited = _edit(connection, ts=NOW + 5).replace("ssh", replace(SSH, id="other", comment="new", position=77))
        assert edited.rule == replace(SSH, comment="new", created=NOW, position=-2)
        assert _live(connection) == ["web", "ssh", "named", "deny", "deny2"]
        assert ruleset.changes(connection, 3) == PolicyChange(3, 4, ("ssh",), (edited.rule,))


def test_a_rule_without_id_gets_one(engine: Engine) -> None:
    with writing(engine) as connection:
        made = _edit(connection).add([replace(SSH, id=""), replace(NAMED, id="")])
    assert all(re.fullmatch("[0-9a-f]{12}", each.rule.id) for each in made) and made[0].rule.id != made[1].rule.id


def test_an_edit_is_one_version_however_much_it_does(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection).add([SSH, NAMED])
        edit = _edit(connection)
        assert edit.version == 1
        edit.add([WEB])
        edit.remove(["ssh", "ssh"])
        edit.replace("web", replace(WEB, comment="again"))
        edit.add([replace(SSH, comment="back")])
        edit.remove(["ssh"])
        assert edit.version == 2 == ruleset.current(connection)
        assert _live(connection) == ["web", "named"]
        change = ruleset.changes(connection, 1)
        assert change.removed == ("ssh",) and [rule.comment for rule in change.added] == ["again"]
        assert [version.version for version in ruleset.versions(connection, None, 9)] == [2, 1]
        assert ruleset.versions(connection, None, 1) == (ruleset.PolicyVersion(2, NOW, ROOT.name, 1, 1),)


def test_what_changes_nothing_makes_no_version(engine: Engine) -> None:
    with writing(engine) as connection:
        made = _edit(connection).add([SSH])[0]
        noted = audit.latest(connection)
        edit = _edit(connection, ts=NOW + 1)
        assert edit.add([]) == () and edit.remove([]) == ()
        assert edit.replace("ssh", SSH) == made
        assert not edit.restore(1) and not edit.sync("file", ()) and edit.version == 1
        assert (ruleset.current(connection), audit.latest(connection)) == (1, noted)


def test_what_is_returned_is_what_is_stored(engine: Engine) -> None:
    """Text that no database takes is escaped, times are whole microseconds; a file with either is synced once."""
    odd = replace(SSH, comment="a\x00b\ud800", expires_at=1_896_091_200.12345678)
    with writing(engine) as connection:
        made = _edit(connection, ts=NOW + 1e-7).add([odd])[0]
        assert made == ruleset.rule(connection, "ssh") and made.rule.comment == "a\\x00b\\ud800"
        assert _edit(connection).replace("ssh", replace(odd, comment="\x00")) == ruleset.rule(connection, "ssh")
        assert _edit(connection).sync("file", (replace(odd, id="file"),))
        assert not _edit(connection).sync("file", (replace(odd, id="file"),))


def test_an_id_is_taken_once_over_all_sources(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (SSH,))
        _edit(connection).add([NAMED])
        for taken, where in ((replace(DENY, id="ssh"), "policy file"), (replace(DENY, id="named"), "allowlist")):
            with pytest.raises(ConflictError, match=f"rule {taken.id} already exists, of the {where}") as caught:
                _edit(connection).add([WEB, taken])
            assert caught.value.target == taken.id
        with pytest.raises(ConflictError, match="given twice"):
            _edit(connection).add([WEB, replace(DENY, id="web")])
        with pytest.raises(ConflictError, match="named already exists"):
            _edit(connection, GATEWAY).sync("file", (SSH, replace(DENY, id="named")))
        with pytest.raises(ConflictError, match="given twice"):
            _edit(connection, GATEWAY).sync("file", (SSH, replace(DENY, id="ssh")))
        assert _live(connection) == ["named", "ssh"] and ruleset.current(connection) == 2


def test_a_rule_is_not_said_twice(engine: Engine) -> None:
    again = replace(SSH, id="again", comment="x", author="y", created=5.0, ports=tuple(reversed(SSH.ports)))
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (SSH,))
        _edit(connection).add([NAMED])
        with pytest.raises(ConflictError, match="rule ssh, of the policy file, already means the same") as caught:
            _edit(connection).add([DENY, again])
        assert caught.value.target == "ssh"
        with pytest.raises(ConflictError, match="rule named, of the allowlist, already means the same"):
            _edit(connection).add([replace(NAMED, id="x")])
        with pytest.raises(ConflictError, match="rule y means the same as rule deny"):
            _edit(connection).add([DENY, replace(DENY, id="y")])
        _edit(connection).add([DENY, WEB, replace(WEB, id="twice"), replace(SSH, id="later", expires_at=NOW)])
        with pytest.raises(ConflictError, match="rule named, of the allowlist, already means the same"):
            _edit(connection).replace("deny", NAMED)
        _edit(connection).remove(["named"])
        _edit(connection).add([replace(NAMED, id="x")])


def test_only_the_allowlist_is_edited(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (SSH,))
        _edit(connection, GATEWAY).sync("sandbox:rome", (replace(WEB, id="rome:web"),))
        for id_, words in (
            ("ssh", "policy file; edit that"),
            ("rome:web", "belongs to sandbox rome and is removed with it"),
        ):
            with pytest.raises(ConflictError, match=words):
                _edit(connection).remove([id_])
            with pytest.raises(ConflictError, match=words):
                _edit(connection).replace(id_, DENY)
        with pytest.raises(NotFoundError, match="no rule nothing") as caught:
            _edit(connection).remove(["nothing"])
        assert caught.value.target == "nothing" and ruleset.current(connection) == 2


def test_a_source_is_made_what_it_should_be(engine: Engine) -> None:
    with writing(engine) as connection:
        assert _edit(connection, GATEWAY).sync("file", (SSH, DENY))
        assert not _edit(connection, GATEWAY, NOW + 9).sync("file", (SSH, DENY))
        assert _edit(connection, GATEWAY, NOW + 9).sync("file", (SSH, replace(DENY, comment="x"), NAMED))
        assert ruleset.changes(connection, 1).removed == ("deny",)
        made = [ruleset.rule(connection, id_) for id_ in ("ssh", "deny", "named")]
        assert [each.rule.position for each in made if each] == [1, 2, 3]
        assert [each.rule.created for each in made if each] == [NOW, NOW, NOW - 60]
        assert _edit(connection, GATEWAY).sync("sandbox:rome", (replace(WEB, id="rome:web"),))
        assert _edit(connection, GATEWAY).sync("file", ())
        assert _live(connection) == ["rome:web"]


def test_rules_that_only_move_share_a_note(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (SSH, DENY))
        _edit(connection, GATEWAY).sync("file", (NAMED, SSH, DENY))
        assert _live(connection) == ["named", "ssh", "deny"]
        moved, created, *_ = audit.entries(connection, limit=9)
    assert (moved.action, moved.target, moved.after) == ("policy.reorder", "file", {"rules": 2})
    assert (created.action, created.target) == ("rule.create", "named")


def test_every_change_is_in_the_audit(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection).add([SSH])
        _edit(connection).replace("ssh", replace(SSH, comment="x"))
        _edit(connection).remove(["ssh"])
        gone, edited, made = audit.entries(connection, limit=9)
    before, after = to_mapping(SSH), to_mapping(replace(SSH, comment="x"))
    assert (made.action, made.before, made.after) == ("rule.create", None, before)
    assert (edited.action, edited.before, edited.after) == ("rule.update", before, after)
    assert (gone.action, gone.before, gone.after, gone.actor) == ("rule.delete", after, None, ROOT.name)


def test_back_to_a_version(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, GATEWAY).sync("file", (replace(DENY, id="f"),))
        _edit(connection).add([SSH, NAMED])
        then = ruleset.snapshot(connection)
        _edit(connection).remove(["ssh"])
        _edit(connection).replace("named", replace(NAMED, comment="edited"))
        _edit(connection).add([WEB])
        _edit(connection, GATEWAY).sync("file", (replace(DENY, id="g"),))
        assert _edit(connection).restore(2)
        restored = ruleset.snapshot(connection)
        assert then and restored and [rule.id for rule in restored.rules] == ["ssh", "named", "g"]
        assert restored.rules[:2] == then.rules[:2]
        assert audit.entries(connection, limit=1)[0].action == "policy.rollback"
        with pytest.raises(NotFoundError, match="no version 99"):
            _edit(connection).restore(99)
        _edit(connection).remove(["ssh"])
        _edit(connection, GATEWAY).sync("file", (replace(DENY, id="ssh"),))
        with pytest.raises(ConflictError, match="ssh already exists"):
            _edit(connection).restore(2)


def test_two_versions_compared(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection).add([SSH, NAMED])
        _edit(connection).replace("named", replace(NAMED, comment="x"))
        _edit(connection).remove(["ssh"])
        _edit(connection).add([WEB])
        there = ruleset.diff(connection, 1, 4)
        assert [each.rule.id for each in there.added] == ["web"]
        assert [each.rule.id for each in there.removed] == ["ssh"]
        assert [(was.rule.comment, now.rule.comment) for was, now in there.changed] == [("", "x")]
        back = ruleset.diff(connection, 4, 1)
        assert (back.added, back.removed) == (there.removed, there.added)
        assert back.changed == tuple((now, was) for was, now in there.changed)
        assert ruleset.diff(connection, 0, 1).added and ruleset.diff(connection, 2, 2) == ruleset.PolicyDiff((), (), ())
        assert ruleset.rule_at(connection, "named", 1) == there.changed[0][0]
        assert ruleset.rule_at(connection, "web", 3) is None and ruleset.made(connection, 3) == NOW
        assert ruleset.made(connection, 4) is None
        for wrong in ((1, 5), (-1, 1)):
            with pytest.raises(NotFoundError, match="no version"):
                ruleset.diff(connection, *wrong)
        with pytest.raises(NotFoundError, match="no version 5"):
            ruleset.changes(connection, 5)


def test_listed_in_pages_and_by_filter(engine: Engine) -> None:
    agent = StoredAgent(Agent("train-1", labels=("gpu",)), "netns", "n")
    with writing(engine) as connection:
        add_agent(connection, ROOT, agent)
        _edit(connection, GATEWAY).sync("file", (DENY,))
        _edit(connection).add([SSH, NAMED, WEB, replace(DENY, id="other", agent="eval-1", author="Ann_")])

        def ids(**wanted: object) -> list[str]:
            found = ruleset.list_rules(connection, RuleFilter(**wanted), None, 99)  # type: ignore[arg-type]
            return [each.rule.id for each in found]

        everything = ["ssh", "named", "web", "other", "deny"]
        assert ids() == everything
        paged, after = [], None
        while page := ruleset.list_rules(connection, RuleFilter(), after, 2):
            paged += [each.rule.id for each in page]
            after = page[-1].rule.position, page[-1].rule.id
        assert paged == everything
        assert ids(agent="train-*") == ["deny"] and ids(agent="label:gpu") == ["named"]
        assert ids(applies_to="train-1") == ["ssh", "named", "web", "deny"]
        assert ids(applies_to="eval-1") == ["ssh", "web", "other"]
        assert ids(destination="example") == ["named"] and ids(destination="%") == []
        assert ids(action=Action.REJECT) == ["other", "deny"]
        assert ids(source="file") == ["deny"] and ids(source="sandbox:*") == []
        assert ids(text="ann_") == ["other"] and ids(text="über") == ["web"]
        assert ids(expired=True, now=1_896_091_201.0) == ["named"]
        assert ids(expired=False, now=1_896_091_201.0) == ["ssh", "web", "other", "deny"]


def test_hits_spent_and_unused(engine: Engine) -> None:
    with writing(engine) as connection:
        _edit(connection, ts=samples.START).add([SSH, NAMED, WEB, replace(WEB, id="kept")])
        flows = [
            (1, "ssh", Action.ACCEPT),
            (9, "ssh", Action.ACCEPT),
            (3, "web", Action.ACCEPT),
            (4, "kept", Action.REJECT),
        ]
        store(connection, [samples.numbered(at, rule_id=id_, action=action) for at, id_, action in flows])
        assert ruleset.hits(connection, ["ssh", "named"]) == {"ssh": Hits(2, samples.START + 9), "named": Hits(0, None)}
        assert ruleset.spent(connection) == ("web",)
        unused = ruleset.unused(connection, samples.START + 4)
        assert [each.rule.id for each in unused] == ["named", "web"]
        assert ruleset.unused(connection, samples.START - 61) == ()


def test_a_rule_becomes_good_once_when_it_is_edited_so(engine: Engine) -> None:
    once = replace(SSH, once=True)
    with writing(engine) as connection:
        _edit(connection, ts=samples.START).add([SSH])
        store(connection, [samples.numbered(1, rule_id="ssh", action=Action.ACCEPT)])
        assert _edit(connection, ts=samples.START + 2).replace("ssh", once).rule.created == samples.START + 2
        assert ruleset.spent(connection) == ()
        _edit(connection, ts=samples.START + 3).replace("ssh", replace(once, comment="x"))
        store(connection, [samples.numbered(2, rule_id="ssh", action=Action.ACCEPT)])
        assert ruleset.spent(connection) == ("ssh",)


def test_editors_at_the_same_time_lose_nothing(database_url: str) -> None:
    """Each with connections of its own, as processes have them."""

    def work(worker: int) -> list[int]:
        engine, made = open_database(database_url), []
        for number in range(8):
            with writing(engine) as connection:
                edit = Edit(connection, ROOT, NOW)
                edit.add([replace(SSH, id=f"w{worker}-{number}", comment="a", ports=((worker + 1, number + 1000),))])
                if number:
                    edit.remove([f"w{worker}-{number - 1}"])
                made.append(edit.version)
        engine.dispose()
        return made

    open_database(database_url).dispose()
    with ThreadPoolExecutor(3) as pool:
        versions = sorted(version for made in pool.map(work, range(3)) for version in made)
    engine = open_database(database_url)
    with engine.connect() as connection:
        assert versions == list(range(1, 25)) and ruleset.current(connection) == 24
        assert sorted(_live(connection)) == [f"w{worker}-7" for worker in range(3)]
        assert audit.verify(connection).broken is None and audit.latest(connection) == 24 + 21
    engine.dispose()


def test_an_edit_of_a_long_policy_looks_at_little(sqlite_engine: Engine) -> None:
    """Every statement of it goes by an index."""
    statements: list[str] = []
    long = [replace(SSH, id=f"r{number}", ports=((number, number),)) for number in range(1, 301)]
    with writing(sqlite_engine) as connection:
        _edit(connection).add(long)
        sa.event.listen(sqlite_engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
        edit = _edit(connection)
        edit.add([NAMED])
        edit.remove(["r7"])
        edit.replace("r9", replace(SSH, comment="x"))
        ruleset.changes(connection, 1)
        ruleset.spent(connection)
        asked = [text for text in statements if not text.startswith(("INSERT", "EXPLAIN"))]
        assert len(asked) > 10
        for text in asked:
            values = [None] * text.count("?")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", tuple(values)).all()
            scans = [row[3] for row in plan if row[3].startswith("SCAN ")]
            given = ("SCAN wanted", "SCAN 5 CONSTANT ROWS", "SCAN CONSTANT ROW")
            # The end of an index, or an index that holds only the few rules that are good once.
            assert all("LIMIT" in text or "ix_rules_once" in scan or scan in given for scan in scans), (text, plan)
