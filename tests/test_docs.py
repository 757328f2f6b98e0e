"""House rules for the documentation: lines that a diff can show, and links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.test_house import FILES, ROOT, where

PAGES = [path for path in FILES if path.suffix == ".md"]
MAX_WIDTH = 120
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page, without fenced blocks: those hold the output of programs, as wide as it was."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_line_is_wider_than_a_diff_shows() -> None:
    wide = [
        f"{where(page)}:{number}: {len(line)} wide, at most {MAX_WIDTH}: wrap it, or make a list of the table"
        for page in PAGES
        for number, line in prose(page)
        if len(line) > MAX_WIDTH
    ]
    assert PAGES
    assert not wide, "\n".join(wide)


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    dead = []
    for page in PAGES:
        for number, line in prose(page):
            for path, anchor in LINK.findall(line):
                target = (page.parent / path).resolve() if path else page
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    dead.append(f"{where(page)}:{number}: {path}#{anchor} does not exist")
    assert (ROOT / "README.md") in PAGES
    assert not dead, "\n".join(dead)
