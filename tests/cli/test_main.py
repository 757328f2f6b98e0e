"""Every error of a command is one line, for any cause."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import pytest

from egress.cli.main import egress as program
from egress.cli.main import main
from egress.store.database.database import open_database
from tests.cli.conftest import Done
from tests.test_house import commands


def process(*words: str) -> Done:
    """Run a command as a user does."""
    command = [sys.executable, "-m", "egress", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def egress(*words: str) -> Done:
    """Run the same in this process: a start of Python takes longer than the command."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["egress", *words])
        with pytest.raises(SystemExit) as end:
            main()
    assert isinstance(end.value.code, int)
    return Done(end.value.code, out.getvalue(), err.getvalue())


@pytest.mark.slow
def test_a_database_damaged_behind_its_header_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "egress.db"
    config = tmp_path / "egress.yaml"
    config.write_text(json.dumps({"database": f"sqlite:///{path}"}))
    open_database(f"sqlite:///{path}").dispose()
    data = path.read_bytes()
    for file in tmp_path.glob("egress.db-*"):
        file.unlink()
    kept = next(size for size in range(4096, len(data), 4096) if b"alembic_version" in data[:size])
    path.write_bytes(data[:kept] + b"\xa5" * (len(data) - kept))
    edits = [] if os.geteuid() else [["agent", "list"], ["agent", "rm", "x"]]  # others need a token before all else
    for words in (["query"], ["show", "0"], *edits):
        done = egress(*words, "--config", str(config))
        assert done.code == 1
        assert done.err.startswith("egress: cannot use ") and done.err.count("\n") == 1, done.err
        assert done.out == ""
    assert process(*words, "--config", str(config)) == done


def test_usage_errors_are_one_line_with_exit_code_2() -> None:
    wrong = [["nonsense"], ["run"], ["query", "--since", "yesterday"], ["agent", "add", "x"], ["show"]]
    for run, words in [*((egress, words) for words in wrong), (process, wrong[0])]:
        done = run(*words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
        assert done.err.startswith("egress: ")


def groups() -> Iterator[tuple[str, click.Group]]:
    yield "egress", program
    for path, command in commands(program, "egress", click.Context(program)):
        if isinstance(command, click.Group):
            yield path, command


def test_the_first_sentence_of_a_help_fits_into_the_list_of_commands() -> None:
    """The list of commands cuts longer sentences, and a cut sentence explains nothing."""
    for path, group in groups():
        context = click.Context(group)
        names = group.list_commands(context)
        room = 80 - 6 - max(map(len, names))
        for name in names:
            command = group.get_command(context, name)
            assert command is not None
            assert not command.get_short_help_str(room).endswith("..."), f"{path} {name}: at most {room} characters"


def test_every_option_explains_itself() -> None:
    silent = [
        f"{path} {option.opts[0]}"
        for path, command in commands(program, "egress", click.Context(program))
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert not silent
