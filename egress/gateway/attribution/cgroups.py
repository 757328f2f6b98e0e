"""Which container a process is in, by the path of its cgroup: each runtime has its own way of writing the id there.

| runtime    | path (systemd's way; cgroupfs' way)                                                |
|------------|------------------------------------------------------------------------------------|
| docker     | /system.slice/docker-ID.scope; /docker/ID                                          |
| podman     | /machine.slice/libpod-ID.scope; /libpod_parent/libpod-ID                           |
| containerd | …/cri-containerd-ID.scope (Kubernetes); /system.slice/nerdctl-ID.scope             |
| cri-o      | …/crio-ID.scope (Kubernetes)                                                       |
| kubernetes | /kubepods/burstable/podUID/ID, where the path does not tell whose container it is  |
| lxc        | /lxc.payload.NAME; /lxc/NAME                                                       |
| nspawn     | /machine.slice/systemd-nspawn@NAME.service                                         |

The outermost match counts: a container may make groups of any name, but below its own only.
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
    """The one path that says most in a /proc/PID/cgroup: a container's, else version 2's, else any below the root."""
    paths = list(_paths(text))
    chosen = next((path for path in paths if container(path)[1]), "")
    chosen = chosen or next((path for path in paths if path != "/"), "") or next(iter(paths), "")
    return chosen[:PROCESS_PATH]


def container(path: str) -> tuple[str, str]:
    """Runtime and id; empty where the path is in no container that we can tell."""
    best: tuple[int, str, str] | None = None
    for runtime, pattern in _PATTERNS:
        match = pattern.search(path)
        if match is not None and (best is None or match.start() < best[0]):
            best = match.start(), runtime, next(each for each in match.groups() if each)
    return ("", "") if best is None else best[1:]


def _paths(text: str) -> Iterator[str]:
    """Version 2's first."""
    lines = [line.split(":", 2) for line in text.split("\n")[:MAX_LINES] if line.count(":") >= 2]
    yield from (path for number, _, path in sorted(lines, key=lambda line: line[0] != "0"))
