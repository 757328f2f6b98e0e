"""Find the container of a process by the path of its cgroup, which has the container's id in the runtime's own form.

| runtime    | path (with systemd; with cgroupfs)                                                 |
|------------|------------------------------------------------------------------------------------|
| docker     | /system.slice/docker-ID.scope; /docker/ID                                          |
| podman     | /machine.slice/libpod-ID.scope; /libpod_parent/libpod-ID                           |
| containerd | …/cri-containerd-ID.scope (Kubernetes); /system.slice/nerdctl-ID.scope             |
| cri-o      | …/crio-ID.scope (Kubernetes)                                                       |
| kubernetes | /kubepods/burstable/podUID/ID, where the path does not name the runtime            |
| lxc        | /lxc.payload.NAME; /lxc/NAME                                                       |
| nspawn     | /machine.slice/systemd-nspawn@NAME.service                                         |

The outermost match decides: a container may make groups of any name, but only below its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egress.records.shape import PROCESS_PATH

MAX_LINES = 64  # hierarchies
_ID = r"[0-9a-f]{64}"
_PATTERNS = (
    ("docker", re.compile(rf"/docker-({_ID})\.scope|/docker/({_ID})(?=/|$)", re.ASCII)),
    ("podman", re.compile(rf"/libpod-({_ID})(?=\.scope|/|$)", re.ASCII)),
    ("containerd", re.compile(rf"/(?:cri-containerd|nerdctl)-({_ID})(?=\.scope|/|$)", re.ASCII)),
    ("cri-o", re.compile(rf"/crio-({_ID})(?=\.scope|/|$)", re.ASCII)),
    ("kubernetes", re.compile(rf"/kubepods(?:/[a-z]+)?/pod[0-9a-f-]{{36}}/({_ID})(?=/|$)", re.ASCII)),
    ("lxc", re.compile(r"^/lxc(?:\.payload\.|/)([A-Za-z0-9._-]{1,64})(?=/|$)", re.ASCII)),
    ("nspawn", re.compile(r"/systemd-nspawn@([A-Za-z0-9._\\-]{1,64})\.service(?=/|$)", re.ASCII)),
)


def group(text: str) -> str:
    """Choose one path from the text of a /proc/PID/cgroup, cut to PROCESS_PATH characters; empty if it has none.

    A container's path comes first, else cgroup v2's if it is not the root, else any other that is not, else the root.
    """
    paths = list(_paths(text))
    chosen = next((path for path in paths if container(path)[1]), "")
    chosen = chosen or next((path for path in paths if path != "/"), "") or next(iter(paths), "")
    return chosen[:PROCESS_PATH]


def container(path: str) -> tuple[str, str]:
    """Return runtime and id (or name) of the container that a path belongs to; two empty texts if to none."""
    best: tuple[int, str, str] | None = None
    for runtime, pattern in _PATTERNS:
        match = pattern.search(path)
        if match is not None and (best is None or match.start() < best[0]):
            best = match.start(), runtime, next(each for each in match.groups() if each)
    return ("", "") if best is None else best[1:]


def _paths(text: str) -> Iterator[str]:
    """Yield the paths in the text of a /proc/PID/cgroup, that of cgroup v2 first."""
    lines = [line.split(":", 2) for line in text.split("\n")[:MAX_LINES] if line.count(":") >= 2]
    yield from (path for number, _, path in sorted(lines, key=lambda line: line[0] != "0"))
