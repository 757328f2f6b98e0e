"""Remove files in /run/netns that a gateway left when it was killed together with its mount namespace.

`ip netns` names a namespace by a file with a mount on it. If the gateway ran in a mount namespace of its own (the
unit's, a container's), its mounts end with that, and only the files are left. Removing a file ends mounts on it in
every mount namespace, so the mounts of all processes are read first. A file younger than YOUNG_SECONDS stays: its mount
may not have been made yet.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

NETNS = Path("/run/netns")
OURS = "egress-*"
YOUNG_SECONDS = 60.0


def clean(directory: Path = NETNS, proc: Path = Path("/proc")) -> list[str]:
    """Remove files of sandboxes (OURS) that no process has a mount on. Returns their names.

    Removes none if the mounts of a process cannot be read.
    """
    try:
        device = directory.stat().st_dev
        dead = [path for path in sorted(directory.glob(OURS)) if _empty(path, device)]
    except OSError:
        return []
    if not dead:
        return []
    mounted = _mounted(proc)
    if mounted is None:
        return []
    removed = []
    for path in dead:
        if path.name not in mounted:
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _empty(path: Path, device: int) -> bool:
    """Return True for an empty file that is old enough and has no mount on it here."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return found.st_dev == device and found.st_size == 0 and time.time() - found.st_mtime > YOUNG_SECONDS


def _mounted(proc: Path) -> set[str] | None:
    """Return the names of files that any process has a mount on; None if the mounts of one cannot be read."""
    names: set[str] = set()
    seen: set[str] = set()
    for process in proc.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            namespace = str((process / "ns" / "mnt").readlink())
            if namespace not in seen:
                text = (process / "mountinfo").read_text(encoding="utf-8", errors="replace")
                names.update(
                    line.split(" ", 5)[4].rpartition("/")[2] for line in text.splitlines() if "/egress-" in line
                )
                seen.add(namespace)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError as error:
            if error.errno == errno.EINVAL or process.name == "1":
                continue  # a zombie; init, which containers may hide, has mounts that others have, too
            return None
    return names
