"""CONTRIBUTING.md: its first signature, made by following the page in a copy of the tree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house import FILES, ROOT

CHAPTER = "## Your first signature in ten minutes"
STEP = re.compile(r"(Create|Append to) `([^`]+)`[^\n]*\n\n```\w+\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_first_signature_works_as_written(tmp_path: Path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    chapter = page.split(f"{CHAPTER}\n", 1)[1].split("\n## How to add", 1)[0]
    (command,) = re.findall(r"^    \.venv/bin/python (-m pytest .*)$", chapter, re.MULTILINE)
    for path in FILES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    steps = STEP.findall(chapter)
    assert [what for what, _, _ in steps] == ["Create", "Create", "Append to"]
    for what, name, text in steps:
        file = tmp_path / name
        assert file.exists() == (what == "Append to"), name
        with file.open("a") as out:
            out.write(text if what == "Create" else f"\n{text}")
    done = subprocess.run(
        [sys.executable, *command.split(), "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lint = [[sys.executable, "-m", "ruff", verb, str(tmp_path / steps[0][1])] for verb in ("check", "format")]
    for argv in (lint[0], [*lint[1], "--check"]):
        checked = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout
