"""The commands that edit, over a fresh database: in this process as root, or with a token over a real server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.engine import Engine

from egress.cli.main import egress
from egress.errors import EgressError
from egress.store.database.database import open_database


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command. `err` includes the one line of an EgressError."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands as root on a host whose state is in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "egress.yaml"
        self.config.write_text(json.dumps({"state_dir": str(directory), "run_dir": str(directory)}))

    def __call__(self, *words: str, stdin: str = "", env: dict[str, str] | None = None) -> Done:
        result = CliRunner().invoke(egress, [*words, "--config", str(self.config)], input=stdin, env=env)
        if isinstance(result.exception, EgressError):
            text = str(result.exception)
            assert "\n" not in text
            return Done(result.exception.exit_code, result.stdout, result.stderr + text)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def ok(self, *words: str, **kwargs: Any) -> Done:
        done = self(*words, **kwargs)
        assert done.code == 0, done
        return done


class Run:
    """Runs commands that read, and checks their exit code."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, *words: str, code: int = 0) -> Result:
        result = CliRunner().invoke(egress, [*words, "--config", str(self.config)])
        error = result.exception
        got = error.exit_code if isinstance(error, EgressError) else result.exit_code
        assert got == code, (result.output, error)
        return result


@pytest.fixture
def cli(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    for name in ("EGRESS_API", "EGRESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_database, tmp_path / "egress.db")
    return Cli(tmp_path)


@pytest.fixture
def run(cli: Cli) -> Run:
    return Run(cli.config)


@pytest.fixture
def database(cli: Cli) -> Iterator[Engine]:
    opened = open_database(f"sqlite:///{cli.directory / 'egress.db'}")
    yield opened
    opened.dispose()
