"""A worker imports nothing after it has dropped privileges, whatever the packets hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_packet_path_imports_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.gateway.worker.late", str(tmp_path / "state")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    *late, played = done.stdout.splitlines()
    assert late == []
    found = re.fullmatch(r"played (\d+) packets, 0 errors", played)
    assert found and int(found[1]) > 1500
