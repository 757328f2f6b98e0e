"""`egress hunt`: output for people and programs, stored findings, and other commands that show them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sqlalchemy.engine import Engine

from egress.hunt.hunters import load
from egress.store.database.database import writing
from egress.store.query.reader import Filter, findings
from egress.store.recording.writer import store
from tests.cli.conftest import Run
from tests.hunt.histories import DAY, SINCE, beacon, flows, named

WINDOW = ("--since", "2026-11-23T00:00", "--until", "2026-11-30T00:00")


@pytest.fixture
def hunted(database: Engine) -> Engine:
    """A database with a beacon every half hour, and another agent's irregular work."""
    rng = np.random.default_rng(1)
    work = np.cumsum(rng.gamma(2, 900, 300))
    records = flows(beacon(rng, 1800, 0.2, 300), agent="rome-7", **named("c2.example.net"))
    records += flows(work[work < 7 * DAY], agent="rome-8", dst="198.51.100.9")
    with writing(database) as connection:
        store(connection, records)
    return database


def test_the_window_is_the_one_of_the_histories() -> None:
    assert SINCE == 1_795_392_000.0  # 2026-11-23T00:00


def test_what_people_see_and_what_is_stored(run: Run, hunted: Engine) -> None:
    shown = run("hunt", *WINDOW, code=3).stdout
    assert "beacon.slow: 1 found" in shown
    assert "rome-7 -> 203.0.113.9:443 tcp" in shown
    assert "(rare destinations need a day of history before --since" in shown
    assert "1 findings; 1 stored, 0 stored before. Details: " in shown
    assert "0 stored, 1 stored before" in run("hunt", *WINDOW, code=3).stdout
    (found,) = findings(hunted, Filter())
    told = run("show", "finding", found.finding_id).stdout
    assert "a suspicion, or found in stored history (egress hunt); nothing was refused for it" in told
    assert "c2.example.net" in told
    assert found.flow_id[:8] in run("query", "signature:beacon.slow").stdout
    counted = run("query", "--count-by", "signature,agent", "effect:none").stdout
    assert "beacon.slow" in counted and "rome-7" in counted
    page = run("report", "--agent", "rome-7", *WINDOW, "-w", "-").stdout
    assert "<h2>Beacons</h2>" in page and "intervals between the starts of flows" in page
    assert "a suspicion, or found in stored history (egress hunt); nothing was refused for it" in page


def test_a_dry_run_stores_nothing(run: Run, hunted: Engine) -> None:
    assert "none stored (--dry-run)" in run("hunt", *WINDOW, "--dry-run", code=3).stdout
    assert list(findings(hunted, Filter())) == []


def test_for_programs(run: Run, hunted: Engine) -> None:
    document = json.loads(run("hunt", *WINDOW, "-o", "json", "--only", "beacon.*", code=3).stdout)
    assert [each["id"] for each in document["hunters"]] == ["beacon.shared", "beacon.slow"]
    (found,) = document["hunters"][1]["findings"]
    assert (found["alert"]["signature"], found["alert"]["effect"]) == ("beacon.slow", "none")
    assert (document["since"], document["stored"], document["dry_run"]) == ("2026-11-23T00:00:00.000000Z", 1, False)


def test_nothing_found(run: Run, hunted: Engine) -> None:
    shown = run("hunt", *WINDOW, "--agent", "rome-8").stdout
    assert "beacon.slow: nothing found" in shown
    assert shown.rstrip().endswith("UTC, 0 findings")
    assert list(findings(hunted, Filter())) == []


def test_the_list_needs_no_database(run: Run) -> None:
    shown = run("hunt", "--list").stdout
    assert all(hunter.id in shown and hunter.about in shown for hunter in load())


@pytest.mark.parametrize(
    "words, code, said",
    [
        (("--only", "beacon.fast"), 2, "unknown hunter 'beacon.fast'"),
        (("--until", "2020-01-01"), 2, "--until must be later"),
        (("--leak-bytes", "ten"), 2, "must be a number of bytes"),
        (("--alpha", "1"), 2, "alpha"),
        (("--since", "whenever"), 2, "is not a valid time"),
    ],
)
def test_errors_say_what_to_do(run: Run, hunted: Engine, words: tuple[str, ...], code: int, said: str) -> None:
    result = run("hunt", *words, code=code)
    assert said in result.output or said in str(result.exception)


def test_without_a_database_it_says_so(run: Run) -> None:
    run.config.write_text(json.dumps({"state_dir": str(run.config.parent / "nowhere")}))
    assert "no database at" in str(run("hunt", code=1).exception)
