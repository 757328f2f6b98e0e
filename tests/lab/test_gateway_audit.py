"""The audit trail is cut off while the gateway runs: it says so, and does not follow that database any more."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from tests.lab.gateway import guarded, log, status
from tests.lab.net import eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]


def test_a_cut_off_trail_is_noticed_by_gateway_and_doctor() -> None:
    with guarded() as stage:
        for name in ("one", "two"):
            stage.egress("allow", f"{name}.example.org", "--id", name)
        eventually(lambda: f"audit trail: entry {status(stage)['audit']['entry']}, head" in log(stage), "it is logged")
        seen = status(stage)["audit"]
        eventually(
            lambda: json.loads(stage.config.policy_snapshot.read_bytes())["head"] == seen["head"], "the snapshot has it"
        )
        assert f"with entry {seen['entry']} that the gateway saw last" in stage.egress("doctor", check=False).stdout
        stage.egress("audit", "verify", "--head", f"{seen['entry']}:{seen['head']}")
        with closing(sqlite3.connect(stage.config.state_dir / "egress.db")) as connection, connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
            for (trigger,) in names.fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
            connection.execute("DELETE FROM audit WHERE seq > ?", (seen["entry"] - 2,))
        eventually(lambda: not status(stage)["database"]["ok"], "the gateway notices")
        first, last = seen["entry"] - 1, seen["entry"]
        lacking = f"entries {first} to {last} are missing: {last} entries were seen"
        assert f"audit trail: {lacking} by this gateway" in status(stage)["database"]["error"]
        eventually(lambda: f"the database is away: audit trail: {lacking}" in log(stage), "the log says it")
        doctor = stage.egress("doctor", check=False)
        assert doctor.returncode == 1 and f"audit trail: {lacking} in {stage.config.policy_snapshot}" in doctor.stdout
        verified = stage.egress("audit", "verify", "--snapshot", check=False)
        assert verified.returncode == 3 and f"BROKEN at entry {first}: {lacking}" in verified.stderr
