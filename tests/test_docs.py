"""House rules for the documentation: lines that a diff can show, links that lead somewhere, and complete lists.

Every command and setting is in docs/operations.md, every route in docs/api.md, and each one that these pages name
exists. Alternatives are written with a bar: `egress case list|show`, `GET|PUT /allowlist/{rule_id}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import click

from api.app import create_app
from api.auth import PREFIX
from egress.cli.main import egress
from egress.config import Config
from tests.test_house import FILES, ROOT, commands, where

PAGES = [path for path in FILES if path.suffix == ".md"]
MAX_WIDTH = 120
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page, without fenced blocks, which hold the output of programs at its own width."""
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


def section(page: str, heading: str) -> str:
    """The text of one section of a page in docs/."""
    text = (ROOT / "docs" / page).read_text()
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def expanded(text: str) -> Iterator[str]:
    """The alternatives of `egress case list|show`, `GET|PUT /policy`."""
    words = [word.split("|") for word in text.split()]
    found = [""]
    for alternatives in words:
        found = [f"{before} {word}".strip() for before in found for word in alternatives]
    return iter(found)


def settings(config: object, prefix: str = "") -> Iterator[str]:
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    every = {path for path, command in commands(egress, "egress", click.Context(egress))
             if not isinstance(command, click.Group)}  # fmt: skip
    named = re.findall(r"^- `(egress [^`]*)`", section("operations.md", "Commands"), re.MULTILINE)
    assert {path for text in named for path in expanded(text)} == every


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    named = set()
    for bullet in re.findall(r"^- (`[^(:]*)", section("operations.md", "Configuration"), re.MULTILINE):
        keys = re.findall(r"`([^`]*)`", bullet)  # `limits.max_flows`, `.max_flows_agent`
        group = keys[0].partition(".")[0]
        named |= {f"{group}{key}" if key.startswith(".") else key for key in keys}
    assert named == set(settings(Config()))


def test_every_route_is_documented_and_every_documented_one_exists() -> None:
    document = create_app(Config()).openapi()
    every = {
        f"{method.upper()} {path.removeprefix(PREFIX)}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    named = re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE)[A-Z|]* /[^`]*)`", section("api.md", "Routes"))
    assert {route for text in named for route in expanded(text)} == every
