"""Command lines that never arrive do not delay other agents for long. A pipe without bytes simulates one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from egress.gateway.attribution import cmdline
from egress.gateway.attribution.cmdline import ALLOWANCE, MAX_LEFT, PATIENCE, CommandLines
from egress.records.shape import PROCESS_CMDLINE


@contextmanager
def directory(path: Path, content: bytes | None) -> Iterator[tuple[int, int]]:
    """Make a directory with a cmdline (None: one whose bytes do not arrive); yields its descriptor and the pipe's."""
    path.mkdir()
    writer = -1
    if content is None:
        os.mkfifo(path / "cmdline")
        writer = os.open(path / "cmdline", os.O_RDWR)
    else:
        (path / "cmdline").write_bytes(content)
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield opened, writer
    finally:
        os.close(opened)
        if writer >= 0:
            os.close(writer)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "command lines"]


def end() -> None:
    deadline = time.monotonic() + 10
    while readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not readers()


@pytest.fixture(autouse=True)
def no_reader_of_another_test() -> None:
    """Wait until the reader threads of other tests have ended: a closed one ends a moment later."""
    end()


def test_what_comes_is_read_and_bounded(tmp_path: Path) -> None:
    lines = CommandLines()
    with directory(tmp_path / "a", b"x\0y\0") as (short, _), directory(tmp_path / "b", b"z" * 9999) as (long, _):
        assert lines.begin("rome", short)() == b"x\0y\0"
        assert lines.begin("rome", long)() == b"z" * (PROCESS_CMDLINE + 1)
    with directory(tmp_path / "c", b"") as (empty, _):
        assert lines.begin("rome", empty)() == b""
        (tmp_path / "c" / "cmdline").unlink()
        assert lines.begin("rome", empty)() == b"" and lines.refused == 0
    lines.close()


def test_who_does_not_answer_is_not_asked_again_and_others_are(tmp_path: Path) -> None:
    lines = CommandLines()
    with directory(tmp_path / "a", None) as (stuck, writer), directory(tmp_path / "b", b"x") as (good, _):
        began = time.monotonic()
        assert lines.begin("hostile", stuck)() is None
        assert PATIENCE <= time.monotonic() - began < 50 * PATIENCE
        assert lines.begin("hostile", good)() is None and lines.refused == 2
        assert lines.begin("rome", good)() == b"x"
        os.write(writer, b"late")  # a late answer is discarded
        assert lines.begin("rome", good)() == b"x"
    lines.close()


def test_an_agent_keeps_one_thread_from_returning_not_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmdline, "PATIENCE", 0.01)
    monkeypatch.setattr(cmdline, "PENALTY", 0.0)
    lines = CommandLines()
    with directory(tmp_path / "a", None) as (stuck, writer), directory(tmp_path / "b", b"x") as (good, _):
        for _ in range(MAX_LEFT):
            assert lines.begin("hostile", stuck)() is None
        assert len(readers()) == 2
        assert lines.begin("rome", good)() == b"x"
        os.write(writer, b"y")
    lines.close()


def test_threads_left_behind_are_bounded_and_end_when_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmdline, "PATIENCE", 0.01)
    lines = CommandLines()
    with directory(tmp_path / "a", None) as (stuck, writer), directory(tmp_path / "b", b"x") as (good, _):
        for number in range(MAX_LEFT):
            assert lines.begin(f"agent{number}", stuck)() is None
        assert lines.begin("rome", good)() is None, "the number of threads is bounded"
        assert len(readers()) == MAX_LEFT + 1
        os.write(writer, b"y" * MAX_LEFT * (PROCESS_CMDLINE + 1))
        lines.close()
        end()


def test_slow_ones_use_up_an_allowance(tmp_path: Path) -> None:
    lines = CommandLines()
    with directory(tmp_path / "a", None) as (slow, writer):
        for _ in range(100):
            pending = lines.begin("hostile", slow)
            threading.Timer(PATIENCE / 2, os.write, (writer, b"z")).start()
            if pending() is None:
                break
        assert lines.refused == 1 and ALLOWANCE < 100 * PATIENCE
        time.sleep(PATIENCE)  # the last timer would write to a closed descriptor
    lines.close()
