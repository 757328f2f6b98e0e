"""`egress schema`: for people, for programs, for the docs."""

from __future__ import annotations

import json

from click.testing import CliRunner

from egress.cli.schema import command
from egress.records import schema
from egress.records.eve import EVENTS


def run(*words: str) -> str:
    done = CliRunner().invoke(command, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_programs_get_the_schema_itself() -> None:
    assert json.loads(run("-o", "json")) == schema.schema()
    assert run("-o", "markdown") == schema.markdown()


def test_people_get_every_key_of_an_event() -> None:
    text = run("anomaly")
    assert "anomaly.count" in text and "alert." not in text
    everything = run()
    for layout in EVENTS.values():
        assert all(key.path in everything for key in schema.keys(layout))


def test_an_unknown_event_is_refused_with_the_known_ones() -> None:
    done = CliRunner().invoke(command, ["stats"])
    assert done.exit_code == 2
    assert "stats is not a valid event_type; it must be one of flow, alert," in done.output
