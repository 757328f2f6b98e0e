"""Network tools of the system: their output, and one line for each way they can fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from egress.errors import EgressError
from egress.gateway.kernel import command
from egress.gateway.kernel.command import confined, python, run


def test_output_and_input() -> None:
    assert run("cat", stdin="typed\n") == "typed\n"


def test_a_failure_is_one_line_with_what_the_tool_said() -> None:
    with pytest.raises(EgressError, match=r"^sh -c .*: no such table$") as failed:
        run("sh", "-c", "printf 'no such\\ntable\\n' >&2; exit 3")
    assert "\n" not in str(failed.value)
    with pytest.raises(EgressError, match=r"exit code 4$"):
        run("sh", "-c", "exit 4")


def test_an_absent_tool_is_named() -> None:
    with pytest.raises(EgressError, match="no-such-tool"):
        run("no-such-tool")


def test_a_tool_that_does_not_finish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TIMEOUT", 0.05)
    with pytest.raises(EgressError, match="sleep"):
        run("sleep", "20")


def test_our_modules_start_from_any_directory(tmp_path: Path) -> None:
    """Modules in the working directory are not imported in place of ours."""
    (tmp_path / "egress.py").write_text("raise SystemExit('the wrong egress')")
    words, environment = python("egress")
    done = subprocess.run(
        [*words, "--version"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "egress" in done.stdout, done.stderr


def test_a_confined_module_inherits_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "S3CRET")
    monkeypatch.setenv("SOME_TOKEN", "S3CRET")
    monkeypatch.setenv("TZ", "UTC")
    (tmp_path / "egress.py").write_text("raise SystemExit('the wrong egress')")
    words, environment = confined("egress")
    assert "S3CRET" not in environment.values() and environment["TZ"] == "UTC"
    done = subprocess.run(
        [*words, "--version"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "egress" in done.stdout, done.stderr
