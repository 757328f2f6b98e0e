"""The configuration tree: missing settings have defaults, wrong ones are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress.config import Config, Journal, load_config
from egress.errors import InputError


def _load(directory: Path, text: str) -> Config:
    path = directory / "egress.yaml"
    path.write_text(text)
    return load_config(path)


def test_a_part_of_the_tree_leaves_the_rest_as_it_is(tmp_path: Path) -> None:
    config = _load(tmp_path, "journal: {fsync: second, segment_seconds: 60}\n")
    assert config.journal == Journal(fsync="second", segment_seconds=60.0)
    assert config.queue == Config().queue


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("journal: {fsync: always}", "journal.fsync: 'always' must be never, second or record"),
        ("journal: {on_full: drop}", "journal.on_full: 'drop' must be refuse or continue"),
        ("journal: {segment_bytes: 1000}", "journal.segment_bytes: 1000 must be from 65536"),
        ("journal: {segment_seconds: 0}", "journal.segment_seconds: 0.0 must be from 1 to 86400"),
        ("journal: {segment_seconds: .nan}", "journal.segment_seconds: nan must be"),
        ("journal: {max_bytes: 1}", "journal.max_bytes: 1 must be from 1048576"),
        ("journal: {max_bytes: 1GB}", "journal: max_bytes: '1GB' must be int"),
        ("journal: {sync: no}", "unknown setting 'sync'; known are fsync,"),
        ("journal: refuse", "expected a mapping"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        _load(tmp_path, text)
    assert said in str(caught.value)
