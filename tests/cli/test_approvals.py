"""`egress approvals`: what waits, and the answer by the first digits of its id."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.api.test_approvals import hold
from tests.cli.conftest import Cli
from tests.store import samples


def test_holds_are_listed_and_decided(cli: Cli, database: Engine) -> None:
    assert cli.ok("approvals").err == "there are no pending holds\n"
    for number, name in enumerate(("a.example", "b.example", "c.example")):
        hold(database, f"{number}f00000000000000", destination=name, names=(name,))
    table = cli.ok("approvals").out.splitlines()
    assert table[0].split()[:2] == ["id", "agent"] and len(table) == 4
    assert "a.example tcp 443" in table[3], "what an approval allows"
    hold(database, "3f00000000000000", destination="d.example", names=("d.example",), query=True, dport=53, proto="udp")
    assert "d.example, any protocol and port" in cli.ok("approvals").out
    listed = {each["id"][:1]: each for each in cli.ok("approvals", "-o", "json").json}
    shown = {"action": "allow", "destination": "a.example", "agent": "rome-7", "protocol": "tcp", "ports": [443]}
    assert listed["0"]["rule"] == shown
    assert listed["3"]["rule"] == {"action": "allow", "destination": "d.example", "agent": "rome-7"}
    assert (listed["0"]["process"], listed["0"]["steps"]) == (None, [])
    hold(database, "4f00000000000000", flow_id=samples.PROCESS.flow_id)
    with writing(database) as connection:
        store(connection, [samples.PROCESS])
    assert samples.PROCESS.cmdline.split()[0] in cli.ok("approvals").out
    done = cli.ok("approvals", "approve", "0f", "--for", "1h").out
    assert done.startswith("approved: rome-7 to a.example by rule ")
    assert cli.ok("approvals", "deny", "1f00").out == "denied: rome-7 to b.example\n"
    made = cli.ok("approvals", "approve", "2f", "-o", "json").json
    assert (made["state"], made["decided_by"]) == ("approved", "uid:0 (root)")
    rules = cli.ok("allowlist", "list", "-o", "json").json
    assert [each["expires"] == "once" for each in rules] == [True, False]
    assert [each["id"][:2] for each in cli.ok("approvals", "list", "--state", "denied", "-o", "json").json] == ["1f"]
    again = cli("approvals", "approve", "1f00000000000000")
    assert (again.code, again.err) == (1, "approval 1f00000000000000 is already denied by uid:0 (root)")


def test_a_doubtful_answer_decides_nothing(cli: Cli, database: Engine) -> None:
    for number in range(2):
        hold(database, f"ab{number}", destination="a.example")
    assert "2 holds begin with ab" in cli("approvals", "approve", "ab").err
    for digits in ("", "zz", "../x", "AB"):
        done = cli("approvals", "deny", digits)
        assert (done.code, "is not a valid id" in done.err) == (2, True)
    assert cli("approvals", "deny", "ffff").code == 1
    bad = cli("approvals", "approve", "ab0", "--for", "soon")
    assert (bad.code, bad.err.startswith("for: ")) == (2, True)
    assert len(cli.ok("approvals", "-o", "json").json) == 2
