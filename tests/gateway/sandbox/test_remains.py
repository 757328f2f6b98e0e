"""Files of namespaces that nobody has mounted are removed; mounted ones, young ones and those of others stay."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from egress.gateway.sandbox.remains import clean


def old(path: Path) -> Path:
    path.touch()
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def test_only_old_empty_files_of_sandboxes_go(tmp_path: Path) -> None:
    gone, other, young, full = (
        old(tmp_path / "egress-run-1"),
        old(tmp_path / "docker-2"),
        tmp_path / "egress-run-3",
        tmp_path / "egress-run-4",
    )
    young.touch()
    full.write_text("x")
    os.utime(full, (1, 1))
    assert clean(tmp_path) == ["egress-run-1"]
    assert not gone.exists() and other.exists() and young.exists() and full.exists()
    assert clean(tmp_path / "absent") == []


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
def test_a_file_that_a_process_elsewhere_has_mounted_stays(tmp_path: Path) -> None:
    path = old(tmp_path / "egress-run-5")
    script = f"mount --bind /proc/self/ns/net {path} && echo mounted && exec sleep 60"
    with subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "mounted\n"
        assert clean(tmp_path) == [] and path.exists()
        process.kill()
        process.wait()
    assert clean(tmp_path) == ["egress-run-5"]
