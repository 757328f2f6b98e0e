"""`egress schema`: for people, for programs, for the docs."""

from __future__ import annotations

import json

from click.testing import CliRunner

from egress.cli.schema import command
from egress.records import schema


def run(*words: str) -> str:
    done = CliRunner().invoke(command, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_programs_get_the_schema_itself() -> None:
    assert json.loads(run("-o", "json")) == schema.schema()
    assert run("-o", "markdown") == schema.markdown()


def test_people_get_every_key_of_what_they_ask_for() -> None:
    text = run("anomaly")
    assert "anomaly.count" in text and "alert." not in text
    for event in schema.events():
        assert all(field.path in run() for field in schema.fields(event))


def test_an_event_that_is_none_is_said_with_those_there_are() -> None:
    done = CliRunner().invoke(command, ["stats"])
    assert done.exit_code == 2
    assert "stats is not a valid event_type; it must be one of flow, alert," in done.output
