"""The quarantine file, `quarantine.jsonl`: journal lines that are not a valid record (hostile, torn or damaged)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from egress.config import Config

QUARANTINE_BYTES = 16 << 20  # once the file has this size, further lines are only counted


def quarantine_file(config: Config) -> Path:
    """The path of the quarantine file."""
    return config.state_dir / "quarantine.jsonl"


def quarantine(path: Path, segment: str, offset: int, aside: Sequence[tuple[str, bytes]]) -> None:
    """Append the entries `aside` (reason, bytes) to the file, as JSON lines; it is created if it is missing.

    The entries come from the batch that begins at byte `offset` of a segment. Once the file has QUARANTINE_BYTES,
    further entries are left out. Raises OSError.
    """
    room = QUARANTINE_BYTES - size(path)
    if not aside or room <= 0:
        return
    with open(path, "ab", opener=_private) as file:
        for why, raw in aside:  # one by one: a batch of newlines gives a million entries
            entry = {"segment": segment, "batch": offset, "error": why, "line": raw.decode("latin-1")}
            room -= file.write(json.dumps(entry).encode("ascii") + b"\n")
            if room <= 0:
                return


def size(path: Path) -> int:
    """The size of a file in bytes, 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
