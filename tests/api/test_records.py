"""/flows, /findings, /verdicts: pages without gaps, filters, scopes, and packets that a capture tool opens."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader
from sqlalchemy.engine import Engine

from egress.model import Action, Direction, Reason
from egress.records.shape import AnomalyRecord, EvidencePacket, EvidenceRecord, Record
from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.api.conftest import Client, assert_problem
from tests.whatif.recording import START, finding, flow, refused, tls

AsRole = Callable[..., Client]
PATHS = ("/flows", "/findings", "/verdicts")
PACKET = bytes.fromhex("45000028000100004006f5a50a4d0002c6336407") + bytes(20)


def keep(engine: Engine, *records: Record) -> None:
    with writing(engine) as connection:
        store(connection, list(records))


def pages(client: Client, path: str, limit: int, then: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Fetch all pages and return their items; `then` is called between two pages."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = client.get(path, params={"limit": limit, **({"cursor": cursor} if cursor else {})}).json()
        assert len(page["items"]) <= limit
        found += page["items"]
        if len(found) <= 3 * limit:
            then()
        cursor = page["next"]
        if cursor is None:
            return found


def test_each_role_may_read_but_the_gateway(engine: Engine, as_role: AsRole) -> None:
    mined = flow()
    objected = finding(mined)
    keep(engine, mined, objected, EvidenceRecord(objected.finding_id, mined.flow_id, mined.agent, objected.time, ()))
    one = f"/findings/{objected.finding_id}"
    paths = [*PATHS, f"/flows/{mined.flow_id}", one, f"{one}/evidence.pcapng"]
    for role in ("viewer", "approver", "editor", "admin"):
        client = as_role(role)
        assert [client.get(path).status_code for path in paths] == [200] * 6
    gateway = as_role("gateway")
    for path in [*paths, "/stream"]:
        assert_problem(gateway.get(path), 403, detail="yours is gateway")


def test_another_ones_records_are_not_there(engine: Engine, as_role: AsRole) -> None:
    theirs, mine = flow(agent="rome-7"), flow(agent="ci-1")
    hidden, shown = finding(theirs), finding(mine)
    kept = [EvidenceRecord(each.finding_id, each.flow_id, each.agent, each.time, ()) for each in (hidden, shown)]
    odd = [AnomalyRecord(agent, START, Reason.SPOOFED, "", 1) for agent in ("rome-7", "ci-1")]
    keep(engine, theirs, mine, hidden, shown, *kept, *odd)
    viewer = as_role("viewer", "ci-*", "x")
    assert [each["flow_id"] for each in viewer.get("/flows").json()["items"]] == [mine.flow_id]
    assert [each["flow_id"] for each in viewer.get("/findings").json()["items"]] == [mine.flow_id]
    assert [each["agent"] for each in viewer.get("/verdicts").json()["items"]] == ["ci-1", "ci-1"]
    for found, status in ((shown, 200), (hidden, 404)):
        assert viewer.get(f"/flows/{found.flow_id}").status_code == status
        assert viewer.get(f"/findings/{found.finding_id}").status_code == status
        assert viewer.get(f"/findings/{found.finding_id}/evidence.pcapng").status_code == status
    assert viewer.get("/flows?q=agent:rome-7 or agent:ci-1").json()["items"][0]["agent"]["name"] == "ci-1"
    assert viewer.get("/flows?q=agent:rome-7").json()["items"] == []


def test_pages_have_no_gap_and_no_repeat_while_rows_come(engine: Engine, root: Client) -> None:
    old = [flow(start=START + number // 3, updated=START + number) for number in range(11)]  # three with the same time
    made = [finding(each, time=each.start) for each in old]
    odd = [AnomalyRecord("a", START + number // 2, Reason.SPOOFED, f"{number}", 1) for number in range(6)]
    keep(engine, *old, *made, *odd)

    def more() -> None:
        new = flow()  # a second after the one before
        later = new.start + 1000
        new = replace(new, start=later, updated=later)
        keep(engine, new, finding(new), AnomalyRecord("b", later, Reason.SPOOFED, new.flow_id, 1))

    for limit in (1, 3):
        kept = {each.flow_id for each in old}
        seen = [each["flow_id"] for each in pages(root, "/flows?until=2026-11-24T00:00:00Z", limit, more)]
        assert sorted(set(seen) & kept) == sorted(kept) and len(seen) == len(set(seen))
        found = [each["alert"]["finding_id"] for each in pages(root, "/findings", limit, more)]
        assert {each.finding_id for each in made} <= set(found) and len(found) == len(set(found))
        judged = [(each["flow_id"], each["detail"]) for each in pages(root, "/verdicts", limit, more)]
        assert {each.flow_id for each in old} <= {flow_id for flow_id, _ in judged}
        assert {str(number) for number in range(6)} <= {detail for _, detail in judged}
        assert len(judged) == len(set(judged))


def test_filters(engine: Engine, root: Client) -> None:
    web = tls("www.a.example")
    ssh = flow(agent="build", dst="192.0.2.9", dport=22, app_proto="ssh", **refused(Reason.FINDING))
    keep(engine, web, ssh, finding(ssh, "ssh.banner"), AnomalyRecord("build", START, Reason.SPOOFED, "", 3))
    for query, expected in (
        ("", {web, ssh}),
        ("agent=b*", {ssh}),
        ("action=reject", {ssh}),
        ("dest=192.0.2.0/24", {ssh}),
        ("name=*.a.example", {web}),
        ("signature=ssh.*", {ssh}),
        ("q=port:443 -app:ssh", {web}),
        ("q=bytes>1kb and not agent:build", {web}),
        ("q=port:22&agent=trainer", set()),
        ("until=2001-01-01T00:00:00Z", set()),
        ("since=2100-01-01T00:00:00Z", set()),
    ):
        found = {each["flow_id"] for each in root.get(f"/flows?{query}").json()["items"]}
        assert found == {each.flow_id for each in expected}, query
        found = {each["flow_id"] for each in root.get(f"/verdicts?{query}").json()["items"]} - {None}
        assert found == {each.flow_id for each in expected}, query
        found = {each["flow_id"] for each in root.get(f"/findings?{query}").json()["items"]}
        assert found == {each.flow_id for each in expected & {ssh}}, query
    odd = [each for each in root.get("/verdicts?agent=build").json()["items"] if each["flow_id"] is None]
    assert [(each["reason"], each["packets"], each["action"]) for each in odd] == [("spoofed", 3, Action.DROP)]
    listed = root.get(f"/flows/{ssh.flow_id}").json()
    assert [each["alert"]["signature"] for each in listed["findings"]] == ["ssh.banner"]


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_parameter_is_named(root: Client, path: str) -> None:
    for query, place, detail in (
        ("q=port:x", "q", "column 6"),
        ("q=agent:a colour:red", "q", "column 9: unknown field colour"),
        ("q=(agent:a", "q", "column 9"),
        ("q=" + "(" * 50, "q", "column"),
        ("q=" + "a" * 5000, "q", ""),
        ("dest=example.org", "dest", "address"),
        ("action=allow", "action", "must be one of accept"),
        ("since=tomorrow", "since", "instant"),
        ("until=2001-01-01", "until", "instant"),
        ("limit=0", "limit", ""),
        ("limit=1001", "limit", ""),
        ("limit=x", "limit", ""),
    ):
        assert_problem(root.get(f"{path}?{query}"), 422, place, detail=detail)
    for cursor in (
        "x",
        "WzFd",
        "W10",
        "bnVsbA",
        "WzEuMCwyLCAzXQ",
        "ÿ",
        "WzFlOTk5LCJhIl0",
        "WzEuMCwtMV0",
        "WzEuMCxbXV0",
    ):
        assert_problem(root.get(path, params={"cursor": cursor}), 400, "cursor")


def test_what_is_not_there(engine: Engine, root: Client) -> None:
    objected = finding(flow())
    keep(engine, objected)
    for path in ("/flows/00000000000000ff", "/findings/00000000000000ff"):
        assert_problem(root.get(path), 404, detail="00000000000000ff")
    for path in ("/flows/xyz", "/findings/xyz", "/findings/xyz/evidence.pcapng"):
        assert root.get(path).status_code == 422
    assert_problem(root.get(f"/findings/{objected.finding_id}/evidence.pcapng"), 404, detail="no packets are kept")


def test_evidence_opens_in_a_capture_tool(engine: Engine, root: Client) -> None:
    mined = flow()
    objected = finding(mined, summary="It mines\nat night. \u202e", evidence=PACKET[12:16])
    packets = tuple(
        EvidencePacket(START + number / 8, Direction(number % 2), len(PACKET) + number, PACKET) for number in range(3)
    )
    record = EvidenceRecord(objected.finding_id, mined.flow_id, mined.agent, objected.time, packets)
    keep(engine, mined, objected, record)
    answer = root.get(f"/findings/{objected.finding_id}/evidence.pcapng")
    assert answer.headers["content-type"] == "application/x-pcapng"
    assert answer.headers["content-disposition"] == f'attachment; filename="finding-{objected.finding_id}.pcapng"'
    read = list(RawPcapNgReader(io.BytesIO(answer.content)))  # type: ignore[arg-type]
    assert [data for data, _ in read] == [PACKET] * 3
    assert [info.wirelen for _, info in read] == [len(PACKET) + number for number in range(3)]
    assert b"mining.stratum" in answer.content


def test_a_flows_latest_record_is_shown(engine: Engine, root: Client) -> None:
    first = flow()
    keep(engine, first, replace(first, updated=first.updated + 1, action=Action.REJECT, reason=Reason.BUDGET))
    assert root.get(f"/flows/{first.flow_id}").json()["verdict"]["reason"] == "budget"
    (only,) = root.get("/verdicts").json()["items"]
    assert (only["action"], only["reason"]) == ("reject", "budget")
