"""Runs `egress` commands on the database of a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from click.testing import CliRunner, Result

from egress.cli.main import egress
from egress.errors import EgressError


@dataclass(frozen=True)
class Run:
    """Runs a command, as in `run("query", "port:22")`; fails unless its exit code is `code`.

    An EgressError is the `exception` of the returned result.
    """

    config: Path

    def __call__(self, *words: str, code: int = 0, charset: str = "utf-8") -> Result:
        done = CliRunner(charset=charset).invoke(egress, [*words, "--config", str(self.config)])
        failed = done.exception
        if failed is not None and not isinstance(failed, SystemExit | click.ClickException | EgressError):
            raise failed
        found = failed.exit_code if isinstance(failed, click.ClickException | EgressError) else done.exit_code
        assert found == code, (done.output, failed)
        return done
