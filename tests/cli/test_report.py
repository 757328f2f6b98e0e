"""`egress report`: complete, self-contained, and safe with text that agents write."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from egress.cli.output import html, plots
from egress.cli.report import POINTS, ROWS
from egress.store.database.database import writing
from egress.store.recording.writer import store
from tests.cli.conftest import Cli
from tests.cli.running import Run
from tests.cli.test_records import HOSTILE, SPAN
from tests.store import samples

ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "table", "tr", "th", "td", "pre", "span",
    "code", "div", "svg", "g", "rect", "path", "circle", "line", "text",
}  # fmt: skip
EMPTY = {"meta"}


class Reader(HTMLParser):
    """The elements and the text that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.shown: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def _report(run: Run, agent: str = "train-1") -> str:
    return run("report", "--agent", agent, *SPAN, "-w", "-").stdout


@pytest.fixture
def run(cli: Cli) -> Run:
    return Run(cli.config)


@pytest.fixture
def filled(database: Engine) -> Engine:
    with writing(database) as connection:
        beats = [samples.numbered(10 * number, dst="203.0.113.5") for number in range(30)]
        beacon = replace(samples.FINDING, finding_id="b1", flow_id=beats[-1].flow_id)
        beacon = replace(beacon, signature="beacon.timing", dst="203.0.113.5")
        store(connection, [samples.FLOW, samples.FINDING, samples.EVIDENCE, beacon, *beats])
    return database


def test_it_tells_what_happened(filled: Engine, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    assert "kB" in run("report", "--agent", "train-1", *SPAN, "-w", str(target)).stdout
    page = target.read_text()
    shown = " ".join(Reader(page).shown)
    for part in (
        "Agent train-1", "31, 31 of them refused", "mining.stratum (high, T1496.001)", "203.0.113.5:443",
        "29 intervals, median 10.000 s", '7b 22 69 64 22', "2 packets are kept:", "2026-11-23 15:00:00.000",
    ):  # fmt: skip
        assert part in shown, part
    assert page.count("<circle") == 29
    run("report", "--agent", "train-1", "--since", "2026-11-23", "--until", "2026-11-22", "-w", "-", code=2)
    assert "no agent 'x' is known" in str(run("report", "--agent", "x", "-w", "-", code=1).exception)
    assert "cannot write" in str(run("report", "--agent", "train-1", "-w", str(tmp_path), code=1).exception)


def test_it_loads_nothing_and_runs_nothing(filled: Engine, run: Run) -> None:
    page = _report(run)
    seen = Reader(page)
    assert set(seen.elements) <= ELEMENTS
    assert not {name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert re.search(r"default-src &#x27;none&#x27;; style-src &#x27;sha256-[\w+/=]{44}&#x27;", page)
    assert "url(" not in page and "@import" not in page


def test_hostile_text_stays_text(database: Engine, run: Run) -> None:
    fields = dict.fromkeys(("server_name", "proto", "dst", "rule_id"), HOSTILE)
    flows = [replace(samples.numbered(number), **fields) for number in range(4)]  # type: ignore[arg-type]
    found = dict.fromkeys(("summary", "technique", "proto", "dst"), HOSTILE)
    finding = replace(samples.FINDING, **found, signature=f"beacon.{HOSTILE}", flow_id=flows[0].flow_id)  # type: ignore[arg-type]
    with writing(database) as connection:
        store(connection, [*flows, finding])
    page = _report(run)
    seen = Reader(page)
    assert set(seen.elements) <= ELEMENTS and "circle" in seen.elements
    assert all(char.isprintable() or char == "\n" for char in page)
    assert "alert(1)" in " ".join(seen.shown)


def test_it_is_bounded_and_says_so(database: Engine, run: Run) -> None:
    assert POINTS < 10_000
    with writing(database) as connection:
        flows = [samples.numbered(number, dst=f"10.0.0.{number}") for number in range(ROWS + 1)]
        found = [replace(samples.FINDING, finding_id=f"{number:x}", flow_id="0") for number in range(ROWS + 1)]
        store(connection, [*flows, *found])
    shown = " ".join(Reader(_report(run)).shown)
    assert f"Only the {ROWS} destinations with most flows are shown." in shown
    assert f"Only the {ROWS} newest findings are shown." in shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_is_never_markup(text: str) -> None:
    page = html.page("t", "", html.tag("p", text, class_=text))
    assert Reader(page).elements == ["html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "p"]


@given(st.lists(st.floats(0, 4e9), min_size=3, max_size=20).map(sorted))
def test_any_moments_are_drawn(moments: list[float]) -> None:
    drawn, told = plots.intervals(moments)
    assert drawn.count("<circle") == len(moments) - 1 and "nan" not in drawn and "inf" not in drawn
    assert "median" in told
