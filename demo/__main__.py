"""Makes all attempts through the real gateway and shows their outcomes: `python -m demo`, as root."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console
from rich.table import Table

from demo.scenes import Attempt, play
from demo.stage import Stage

NEEDED = ("ssh.unusual-port", "mining.stratum", "beacon.timing")


def picture(attempts: list[Attempt]) -> Table:
    """Build the table of attempts, with their expected and actual outcomes."""
    table = Table(title="What the agent tried, and what came of it")
    for heading in ("over", "attempt", "must be", "", "the client saw"):
        table.add_column(heading, overflow="fold")
    for attempt in attempts:
        mark = "[green]ok[/]" if attempt.ok else "[red]WRONG[/]"
        table.add_row(attempt.family, attempt.what, attempt.expected, mark, attempt.seen)
    return table


def main() -> int:
    """Run the demonstration. Returns 1 if an outcome is wrong, a finding is missing, or the gateway fails; else 0."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    if os.geteuid():
        console.print("demo: run as root, it makes network namespaces", style="red")
        return 1
    began = time.monotonic()
    with Stage() as stage:
        console.print("agent ── gateway (netfilter queues, SQLite) ── outside   three namespaces of this machine\n")
        stage.attach("rome-7")
        stage.start("--workers", "1")
        attempts = []
        for attempt in play(stage):
            attempts.append(attempt)
            console.print(
                f"  {attempt.family}  {attempt.what:32} {attempt.expected}: {'ok' if attempt.ok else 'WRONG'}"
            )
        code = stage.stop()
        console.print()
        console.print(picture(attempts))
        console.print("\nWhat the database says (egress query --action reject):\n")
        console.print(stage.egress("query", "--action", "reject").stdout, markup=False, highlight=False)
        found = stage.egress("query", "-o", "json").stdout
    wrong = [attempt for attempt in attempts if not attempt.ok]
    missing = [signature for signature in NEEDED if signature not in found]
    if missing:
        console.print(f"no finding in the database for: {', '.join(missing)}", style="red")
    console.print(f"{len(attempts) - len(wrong)} of {len(attempts)} as they must be, {time.monotonic() - began:.0f} s")
    return 1 if wrong or missing or code else 0


if __name__ == "__main__":
    sys.exit(main())
