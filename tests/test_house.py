"""House rules that a linter does not know, each with its reason. A failure names the file and what to do."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("egress", "api", "signatures", "migrations")
MAX_FILE, MAX_FUNCTION = 400, 60  # lines


def tracked() -> list[Path]:
    """List the files that git tracks or would track; without git (a source archive) all files."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, capture_output=True, text=True, check=False)
    if git.returncode:
        hidden = {".venv", "__pycache__", ".git"}
        return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.parts)]
    return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]


FILES = tracked()
SOURCES = sorted(path for path in FILES if path.suffix == ".py")
LIBRARY_SOURCES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in LIBRARY]


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


class Definition(NamedTuple):
    """A module, class or function of a source, as far as the rules below need it."""

    path: Path
    node: type[ast.AST]
    name: str
    line: int
    lines: int
    docstring: str | None


@functools.cache
def definitions() -> list[Definition]:
    """Read every source once for all rules: the trees of the whole project take seconds, and much memory."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append(Definition(path, type(node), node.name, node.lineno, length, ast.get_docstring(node)))
            elif isinstance(node, ast.Module) and node.body:
                lines = path.read_bytes().count(b"\n")
                found.append(Definition(path, ast.Module, path.stem, 1, lines, ast.get_docstring(node)))
    return found


def signatures() -> list[str]:
    from signatures import load

    return sorted(signature.id for signature in load())


def hunters() -> list[str]:
    from egress.hunt.hunters import load

    return [hunter.id for hunter in load()]


def test_the_rules_have_files_to_check() -> None:
    """A walk that finds nothing would make every rule below hold."""
    assert len(LIBRARY_SOURCES) > 30
    assert len(signatures()) >= 3
    assert len(hunters()) >= 5


# Declarations only: there is nothing to run.
DEFINITIONS = {"egress/dissection/events.py"}


def test_every_parser_engine_part_and_signature_has_its_test() -> None:
    """Files that read hostile bytes count as untested without a test file of their own name."""
    missing = []
    for path in LIBRARY_SOURCES:
        parts = path.relative_to(ROOT).parts
        if path.name == "__init__.py" or where(path) in DEFINITIONS:
            continue
        rooms = (("egress", "wire"), ("egress", "dissection"), ("egress", "engine"), ("egress", "hunt"))
        if not (parts[:2] in rooms or parts[0] == "signatures"):
            continue
        mirror = Path("tests", *[part for part in parts[:-1] if part not in ("egress", "hunters")])
        if not list((ROOT / mirror).glob(f"test_{path.stem}*.py")):
            missing.append(f"{where(path)}: write {mirror}/test_{path.stem}.py")
    assert not missing, "\n".join(missing)


def test_every_signature_is_documented() -> None:
    """Users who are refused, or must silence a finding, look it up by its id."""
    text = (ROOT / "docs" / "signatures.md").read_text()
    missing = [name for name in signatures() if f"\n## {name}\n" not in text]
    assert not missing, f"docs/signatures.md: add a section '## {missing[0]}'"


@pytest.mark.parametrize("page, there", [("signatures.md", signatures), ("hunting.md", hunters)])
def test_detectors_are_documented_and_the_documented_exist(page: str, there: Callable[[], list[str]]) -> None:
    """Each detector has a section of its page, and each section describes a detector that exists."""
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"^## ([a-z]+\.[a-z0-9-]+)$", text, re.MULTILINE)
    assert sorted(named) == there()


def test_signatures_and_hunters_share_no_id() -> None:
    """Rules exempt a signature or hunter by its id, so an id must have one meaning."""
    assert not set(signatures()) & set(hunters())


def test_files_and_functions_stay_readable() -> None:
    """A file can be read in one sitting, a function on one screen: longer ones hide their mistakes."""
    long = []
    for path, node, name, line, lines, _ in definitions():
        if node is ast.Module and lines > MAX_FILE:
            long.append(f"{where(path)}: {lines} lines, at most {MAX_FILE}: split it")
        if node in (ast.FunctionDef, ast.AsyncFunctionDef) and lines > MAX_FUNCTION:
            long.append(f"{where(path)}:{line} {name}: {lines} lines, at most {MAX_FUNCTION}")
    assert not long, "\n".join(long)


def test_every_module_has_a_docstring() -> None:
    """The first line of a file says what its module is for."""
    silent = [where(each.path) for each in definitions() if each.node is ast.Module and not each.docstring]
    assert not silent, f"module docstring missing: {', '.join(silent)}"


RIDDLES = {
    "What", "Whether", "Of", "Who", "Whose", "It", "Which", "How", "Where", "That", "Those", "These",
    "Nobody", "Somebody", "Whoever", "Whatever",
}  # fmt: skip


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    """A docstring whose subject is left to the reader is read twice."""
    riddles = []
    for path, _, _, line, _, docstring in definitions():
        words = (docstring or "").split()
        if words and words[0].strip(",.;:") in RIDDLES:
            riddles.append(f"{where(path)}:{line}: begins with '{words[0]}': begin with a verb, or name the subject")
    assert not riddles, "\n".join(riddles)


# The first three are written so that this file does not contain the text that it forbids.
FORBIDDEN_EVERYWHERE = {
    "the host of a package registry; pin by version and hash": rf"{'py'}pi\.(org|python\.org)|{'pythonhosted'}\.org",
    "a download location; it belongs to the machine, not to the project": rf"--(extra-)?{'index'}-url|--{'find'}-links",
    "a path of a developer's machine": rf"(?<![\w.])/{'work'}/|/{'home'}/[a-z]|/{'Users'}/|/{'root'}/",
}
RIDDLE = "a word that hides its subject; name the caller, client, process or thing"
COMMENTED = ("egress/store/database/tables.py", "migrations/versions/")  # a column's comment changes by migration only
FORBIDDEN_IN_LIBRARY = {
    RIDDLE: (r"(?i)\b(whoever|speaks? of|tells? of|told of|for show|none of ours|no such one)\b"),
    "a note to self; do it or file an issue": r"\b(TODO|FIXME|XXX)\b",
    "a broad except; name what can happen, or say why not": (
        r"except\s*(\(?\s*(Base)?Exception\b|:)(?!.*# (noqa: BLE001 - )?\w+)"
    ),
    "print; the CLI uses click.echo, the rest records or returns": r"(?<![\w.])print\(",
}


@pytest.mark.parametrize("reason", [*FORBIDDEN_EVERYWHERE, *FORBIDDEN_IN_LIBRARY])
def test_forbidden_text(reason: str) -> None:
    everywhere = reason in FORBIDDEN_EVERYWHERE
    pattern = re.compile((FORBIDDEN_EVERYWHERE | FORBIDDEN_IN_LIBRARY)[reason].encode())
    found = []
    for path in FILES if everywhere else LIBRARY_SOURCES:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if pattern.search(line) and not (reason is RIDDLE and where(path).startswith(COMMENTED)):
                found.append(f"{where(path)}:{number}: {reason}")
    assert not found, "\n".join(found[:20])


def test_every_property_keeps_to_the_fast_profile() -> None:
    """A number of examples beside a property outweighs the profile, and `make test FAST=1` would try them all."""
    fixed = re.compile(r"max_examples=\d")
    tests = [path for path in SOURCES if path.is_relative_to(ROOT / "tests") and path != ROOT / "tests" / "conftest.py"]
    found = [where(path) for path in tests if fixed.search(path.read_text())]
    assert not found, f"write max_examples=examples(300), of tests/examples.py: {', '.join(found)}"


def test_every_requirement_is_pinned_and_hashed() -> None:
    """Installs must never differ from the one that was tested."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = re.sub(r"\s*\\\n\s*", " ", path.read_text())
        lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
        assert lines, f"{where(path)} is empty"
        for line in lines:
            assert re.match(r"[a-z0-9._-]+==\S+( ;.*)?( --hash=sha256:[0-9a-f]{64})+$", line), (
                f"{where(path)}: {line[:60]}"
            )


def commands(group: click.Group, path: str, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}", context)


def test_every_command_explains_itself_with_an_example() -> None:
    """Users of a help text without an example must guess."""
    from egress.cli.main import egress

    every = [("egress", egress), *commands(egress, "egress", click.Context(egress))]
    assert len(every) > 7
    for name, command in every:
        text = command.get_help(click.Context(command, info_name=name))
        assert (command.help or "").strip(), f"{name}: no help"
        assert re.search(rf"^\s+{name} ", text.split("Example", 1)[-1], re.MULTILINE), f"{name} --help: no example"


def test_every_module_can_be_imported() -> None:
    """A module that no other imports can be broken without a failing test."""
    for package in LIBRARY[:3]:
        module = importlib.import_module(package)
        for info in pkgutil.walk_packages(module.__path__, f"{package}."):
            importlib.import_module(info.name)
