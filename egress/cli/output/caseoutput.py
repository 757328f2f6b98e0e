"""`egress replay --into-db`: judges captures and stores policy, captures and records in a case."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from egress.cli.output.text import plain
from egress.config import Config
from egress.errors import EgressError
from egress.model import Rule
from egress.replay import Network, Report, replay
from egress.store.cases.caseimport import CaptureWriter, begin, examine
from egress.store.cases.cases import case_path, close_case, make_case


class CaseOutput:
    """A case into which captures are replayed. It is created if missing. Raises EgressError if it cannot be opened."""

    def __init__(self, config: Config, case: str, rules: Sequence[Rule], networks: Sequence[Network]) -> None:
        self._case = case
        self._rules, self._networks = rules, networks
        self._engine, there = make_case(config, case)
        if there:
            click.echo(f"egress: case {case} exists already ({case_path(config, case)}); adding to it", err=True)

    def judge(self, path: Path, progress: Callable[[int], object]) -> Report:
        """Replay one file and return its report; store its records, unless the case has this file already.

        `progress` is called as in `egress.replay.replay`. Raises EgressError if the file is no capture or cannot be
        read to its end: records stored until then are kept, and the capture is marked as incomplete.
        """
        source = examine(path)
        begun = begin(self._engine, source, self._rules, [str(network) for network in self._networks])
        if begun.stored:
            click.echo(f"egress: {plain(str(path))} is in case {self._case} already; nothing is stored twice", err=True)
            return replay(path, begun.policy, self._networks, progress)
        writer = CaptureWriter(self._engine, begun)
        try:
            report = replay(path, begun.policy, self._networks, progress, writer.add)
        except EgressError:  # it is not a capture, or it cannot be read to its end
            writer.abort()
            raise
        shared = writer.finish(
            source,
            packets=report.packets,
            flows=report.flows,
            unread=report.decode_errors + report.unattributed,
            truncated=report.truncated,
        )
        if shared:
            click.echo(
                f"egress: {shared} flows of {plain(str(path))} are in other captures of the case too; "
                "of each, the record with most packets is kept",
                err=True,
            )
        return report

    @property
    def hint(self) -> str:
        """A line for the user: the name of the case, and the command that shows its records."""
        return f"stored in case {self._case}: egress query --case {shlex.quote(self._case)}"

    def close(self) -> None:
        """Close the case's database. All of the case is in one file then."""
        close_case(self._engine)
