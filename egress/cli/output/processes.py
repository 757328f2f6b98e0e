"""Formats the process that opened a flow."""

from __future__ import annotations

from collections.abc import Iterator

from egress.cli.output.text import labelled, plain, when
from egress.records.shape import ProcessRecord, ProcessStatus

NEVER = "not looked up: a replay, another host, attribution disabled, or too many flows at once"


def program(process: ProcessRecord) -> str:
    """Format a process as the name of its executable and its pid."""
    return plain(f"{process.exe.rpartition('/')[2] or '?'} ({process.pid})")


def process_cell(process: ProcessRecord | None) -> str:
    """Format a process for a table: the program, or the status if it is not known; `-` for None."""
    if process is None:
        return "-"
    return program(process) if process.exe else f"({process.status})"


def process_lines(process: ProcessRecord | None) -> Iterator[str]:
    """Format everything known about a process, or the reason why nothing is known."""
    if process is None:
        yield labelled("process", NEVER)
        return
    if process.status is not ProcessStatus.FOUND:
        number = f" (pid {process.pid})" if process.pid else ""
        user = f", a socket of uid {process.uid}" if process.uid is not None and not process.pid else ""
        yield labelled("process", f"{process.status}{number}: {process.reason}{user}")
    else:
        yield labelled("process", process.cmdline or f"[{process.reason or 'it has no command line'}]")
    if process.exe:
        numbers = f"pid {process.pid}"
        if process.inner_pid not in (0, process.pid):
            numbers += f" ({process.inner_pid} in its own namespace)"
        began = f", begun {when(process.started)} UTC" if process.started is not None else ""
        yield labelled("", f"{process.exe}  {numbers}, uid {process.uid}{began}")
    if process.container:
        yield labelled("", f"{process.runtime} {process.container}")
    if process.cgroup not in ("", "/"):
        yield labelled("", f"cgroup {process.cgroup}")
