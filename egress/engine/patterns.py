"""Byte patterns over opaque streams, by Hyperscan in stream mode.

A settled flow is no longer dissected, but every packet of it is still scanned for what the signatures name in
`patterns`: a hit makes the engine take the flow back and look closely. Matches across packets are found, the
state is a few hundred bytes a flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import hyperscan

from egress.engine.signature import Signature


class Patterns:
    """The compiled patterns of all signatures; where they name none, `scan()` is None."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        expressions = sorted({pattern for signature in signatures for pattern in getattr(signature, "patterns", ())})
        self._database: hyperscan.Database | None = None
        if expressions:
            self._database = hyperscan.Database(mode=hyperscan.HS_MODE_STREAM)
            flags = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH
            self._database.compile(expressions=expressions, ids=list(range(len(expressions))), flags=flags)

    def scan(self) -> Scan | None:
        """State for one direction of one flow."""
        return None if self._database is None else Scan(self._database)


class Scan:
    """One stream being scanned."""

    __slots__ = ("_database", "_hits", "_stream")

    def __init__(self, database: hyperscan.Database) -> None:
        # Hyperscan's streams own neither their database nor the context of their callback: both are kept here.
        self._database = database
        self._hits: list[int] = []
        self._stream = database.stream(match_event_handler=_matched, context=self._hits)
        self._stream.__enter__()

    def hit(self, data: bytes) -> bool:
        """Scan the next bytes; True once a pattern has matched."""
        self._stream.scan(data)
        return bool(self._hits)


def _matched(pattern: int, _start: int, _end: int, _flags: int, hits: object) -> None:
    assert isinstance(hits, list)
    hits.append(pattern)
