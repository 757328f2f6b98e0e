"""Draws numbers over time as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from egress.cli.output.text import when
from egress.store.query.timeline import Axis

UNICODE = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
ASCII = " .:-=+*#@"
TICK = 12  # columns between two times of the axis


def blocks(encoding: str | None) -> str:
    """Return the characters of bars, lowest first: block elements, or ASCII if the encoding lacks them or is None."""
    try:
        UNICODE.encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return ASCII
    return UNICODE


def bars(values: Sequence[int], signs: str) -> str:
    """Draw one of `signs` (from `blocks`) per value, the tallest for the greatest value; only 0 is left blank."""
    top, most = max(values, default=0), len(signs) - 1
    return "".join(signs[-(-value * most // top)] if value > 0 else signs[0] for value in values)


def marks(refused: Sequence[int], findings: Sequence[int]) -> str:
    """Draw one character per column: ! for findings, x for refusals alone, else a blank."""
    return "".join("!" if found else "x" if no else " " for no, found in zip(refused, findings, strict=True))


def axis_lines(shown: Axis) -> tuple[str, str]:
    """Draw a ruler with a tick at every TICK columns, and the times of the ticks (UTC) below.

    These are dates if ticks are a day or more apart, times of day if a column is less than a minute, else both.
    """
    ticks = range(0, shown.count, TICK)
    rule = "".join("|" if at % TICK == 0 else "-" for at in range(shown.count))
    texts = [_time(shown.begin + at * shown.step, shown.step) for at in ticks]
    return rule, "".join(f"{text:<{TICK}}" for text in texts).rstrip()


def _time(moment: int, step: int) -> str:
    text = when(moment)
    if step * TICK >= 86400:
        return text[:10]
    return text[11:19] if step < 60 else text[5:16]
