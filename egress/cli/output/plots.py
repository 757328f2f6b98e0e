"""Plots of the report, as SVG without styles or scripts of their own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from egress.cli.output.html import Html, tag
from egress.cli.output.text import size, when
from egress.store.query.timeline import Activity, Axis

WIDTH, HEIGHT = 960, 160  # of the plot itself
LEFT, TOP, BOTTOM = 60, 12, 24  # margins, for numbers and times


def activity(shown: Axis, of: Activity) -> Html:
    """Plot an agent's flows over time: a bar per interval, accepted flows below refused ones; findings are marked."""
    most = max(of.flows, default=0) or 1
    wide = WIDTH / shown.count
    drawn: list[Html] = []
    for at, (count, refused, found) in enumerate(zip(of.flows, of.refused, of.findings, strict=True)):
        left, title = LEFT + at * wide, f"{when(shown.begin + at * shown.step)} UTC: {count} flows, {refused} refused"
        title += f", {size(of.bytes[at])}" + (f", {found} findings" if found else "")
        high, no = HEIGHT * count / most, HEIGHT * refused / most
        bars = [
            _bar(left, TOP + HEIGHT - high + no, wide, high - no, "accepted"),
            _bar(left, TOP + HEIGHT - high, wide, no, "refused"),
        ]
        if found:
            middle = left + wide / 2
            bars.append(tag("path", d=f"M{middle - 4:.1f} 0h8l-4 10z", class_="found"))
        if count or found:
            drawn.append(tag("g", tag("title", title), *bars))
    return _plot(drawn, f"{most} flows", shown.begin, shown.end)


def intervals(moments: Sequence[float]) -> tuple[Html, str]:
    """Plot the intervals between the sorted starts of at least two flows (seconds since the epoch).

    Returns the plot, and a text with the number of intervals, their median, and the median deviation from it (seconds).
    """
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    middle, most = statistics.median(gaps), max(gaps) or 1.0
    spread = statistics.median(abs(gap - middle) for gap in gaps)
    begin, end = moments[0], max(moments[-1], moments[0] + 1)
    drawn = [
        tag(
            "circle",
            tag("title", f"{when(moment)} UTC: {gap:.3f} s"),
            cx=f"{LEFT + WIDTH * (moment - begin) / (end - begin):.1f}",
            cy=f"{TOP + HEIGHT * (1 - gap / most):.1f}",
            r=2,
            class_="gap",
        )
        for moment, gap in zip(moments[1:], gaps, strict=True)
    ]
    level = f"{TOP + HEIGHT * (1 - middle / most):.1f}"
    drawn.append(tag("line", x1=LEFT, x2=LEFT + WIDTH, y1=level, y2=level, class_="median"))
    described = f"{len(gaps)} intervals, median {middle:.3f} s, half of them within {spread:.3f} s of it"
    return _plot(drawn, f"{most:.1f} s", begin, end), described


def _plot(drawn: Sequence[Html], top: str, begin: float, end: float) -> Html:
    floor = TOP + HEIGHT
    around = [
        tag("line", x1=LEFT, x2=LEFT + WIDTH, y1=floor, y2=floor, class_="axis"),
        tag("text", top, x=LEFT - 4, y=TOP + 8, text_anchor="end"),
        tag("text", "0", x=LEFT - 4, y=floor, text_anchor="end"),
    ]
    for part, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        moment = when(begin + (end - begin) * part)[5:19]
        around.append(tag("text", moment, x=LEFT + WIDTH * part, y=floor + 16, text_anchor=anchor))
    box = f"0 0 {LEFT + WIDTH + 4} {floor + BOTTOM}"
    return tag("svg", *around, *drawn, viewBox=box, role="img", xmlns="http://www.w3.org/2000/svg")


def _bar(x: float, y: float, width: float, height: float, kind: str) -> Html:
    if height <= 0:
        return Html("")
    return tag(
        "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{max(width - 1, 0.5):.1f}", height=f"{height:.1f}", class_=kind
    )
