"""Reads large bodies in a process of its own: `python -m api.otlp.apart MEDIA_TYPE`, the body on standard input.

The parsers hold Python's lock for as long as they take, half a second and more, and no other request is answered
meanwhile. The process has bounds for memory and time, runs with low priority, and returns only the spans that are used.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from api.otlp import jsontraces, protobuf
from api.otlp.spans import MalformedSpanError, Span

LARGE = 128 << 10  # bytes; smaller bodies take a few milliseconds
MEMORY = 1 << 30  # bytes
SECONDS = 20  # of CPU
WAIT_SECONDS = 60.0
NICE = 10
_MALFORMED = 3  # exit status: the reason is on standard output
_ROOT = Path(__file__).resolve().parents[2]


class UnreadError(Exception):
    """The process that reads a body failed or took too long: the body may be valid, and can be sent again."""


class Reading(NamedTuple):
    """The used spans of a body (tool calls, spans that name an episode, broken ones), and the number of others."""

    spans: list[Span]
    ignored: int


def read(kind: str, body: bytes) -> Reading:
    """Read a body of media type `kind`; one of LARGE bytes or more in a process of its own.

    Raises MalformedSpanError if it is not valid trace data, UnreadError if its process fails or takes too long.
    """
    if len(body) < LARGE:
        return _select(kind, body)
    environment = {"PATH": os.defpath, "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    words = [sys.executable, "-m", "api.otlp.apart", kind]
    try:
        done = subprocess.run(
            words, input=body, capture_output=True, timeout=WAIT_SECONDS, check=False, env=environment, cwd="/"
        )
    except OSError as error:
        raise UnreadError(f"the process that reads the body cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UnreadError("the body took too long to read: send smaller batches") from None
    if done.returncode == _MALFORMED:
        raise MalformedSpanError(done.stdout.decode("utf-8", "replace"))
    if done.returncode:
        raise UnreadError("the body could not be read in the memory and time for one: send smaller batches")
    ignored, *lines = done.stdout.splitlines()
    return Reading([Span(*json.loads(line)) for line in lines], int(ignored))


def _select(kind: str, body: bytes) -> Reading:
    """Read a body of media type `kind` in this process. Raises MalformedSpanError."""
    spans: Iterable[Span] = protobuf.read(body) if kind == protobuf.MEDIA_TYPE else jsontraces.read(body)
    kept, ignored = [], 0
    for span in spans:
        if span.broken or span.is_tool or (span.trace_id and span.episode):
            kept.append(span)
        else:
            ignored += 1
    return Reading(kept, ignored)


def main() -> int:
    """Read the body on standard input within the limits of this process; print the spans that are used, as JSON lines.

    Returns the exit status: 0, _MALFORMED with the reason on standard output, or 1 if memory ran out.
    """
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        reading = _select(sys.argv[1], sys.stdin.buffer.read())
    except MalformedSpanError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return _MALFORMED
    except MemoryError:
        return 1
    out = sys.stdout.buffer
    out.write(b"%d\n" % reading.ignored)
    for span in reading.spans:
        out.write(json.dumps(astuple(span)).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
