"""The place of each test: tests/ mirrors the tree, and elsewhere.txt lists product files tested elsewhere.

A product file `egress/ROOM/NAME.py` has a test `tests/ROOM/test_NAME.py` (or `test_NAME_*.py`), or a line in
elsewhere.txt: the file (or `FOLDER/`, for all files in it), its test, and a word by which the test reaches it, where it
does not import it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_house import LIBRARY_SOURCES, ROOT, where

TABLE = Path(__file__).parent / "elsewhere.txt"
ALIKE = {"hunters", "routes"}  # folders of files of one kind, whose tests are in the room's own folder
LINES = [line.split(maxsplit=2) for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]


def own_tests(source: Path) -> list[Path]:
    parts = [part for part in source.relative_to(ROOT).parent.parts if part not in {"egress", *ALIKE}]
    folder = ROOT.joinpath("tests", *parts)
    return [*folder.glob(f"test_{source.stem}.py"), *folder.glob(f"test_{source.stem}_*.py")]


@cache
def imported(test: Path) -> frozenset[str]:
    """The modules and names that a file imports, as dotted names."""
    return frozenset(_names(ast.parse(test.read_bytes())))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_product_file_has_a_test_file_or_names_one() -> None:
    """A newcomer who changes a file must find its test alone."""
    listed = {source for source, *_ in LINES}
    missing = [
        f"{where(source)}: write a test of its name, or say in elsewhere.txt where it is tested"
        for source in LIBRARY_SOURCES
        if source.name != "__init__.py"
        and not listed & {where(source), f"{where(source.parent)}/"}
        and not own_tests(source)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line[0]))
def test_every_line_is_true(line: list[str]) -> None:
    source, test = ROOT / line[0], ROOT / line[1]
    assert source.is_dir() if line[0].endswith("/") else source.is_file(), f"there is no {line[0]}: remove its line"
    assert source.is_dir() or not own_tests(source), f"{line[0]} has a test of its name: remove its line"
    assert test.is_file(), f"there is no {line[1]}"
    if len(line) == 3:
        assert line[2] in test.read_text(), f"{line[1]} does not contain {line[2]!r}"
    else:
        module = line[0].removesuffix(".py").replace("/", ".")
        assert module in imported(test), f"{line[1]} does not import {module}: name a word by which it reaches it"


def test_lines_are_in_order_and_none_comes_twice() -> None:
    sources = [source for source, *_ in LINES]
    assert sources == sorted(set(sources))
