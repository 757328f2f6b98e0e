"""Named network namespaces, as `ip netns` keeps them: a file in /run/netns that a namespace is mounted on.

So `ip netns list` and `ip netns exec` know them. A file without a mount, which a killed process leaves, is removed
like the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from egress.gateway.kernel import linux

_DIRECTORY = Path("/run/netns")


def path(name: str) -> Path:
    return _DIRECTORY / name


def give_name(name: str, namespace: Path) -> None:
    """Mount a /proc/PID/ns/net file under a name. Raises OSError; FileExistsError if there is one of that name."""
    _share_directory()
    os.close(os.open(path(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    linux.mount(str(namespace), str(path(name)), "none", linux.MS_BIND)


def remove(name: str) -> None:
    """Unmount a namespace and remove its name; no effect if there is none. It ends with its last process."""
    try:
        linux.unmount(str(path(name)))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there
            raise
    path(name).unlink(missing_ok=True)


def processes(name: str) -> list[int]:
    """List the processes that are in a namespace, as far as /proc shows them."""
    try:
        wanted = path(name).stat()
    except OSError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if entry.name.isdecimal() and os.path.samestat((entry / "ns/net").stat(), wanted):
                found.append(int(entry.name))
    return found


def _share_directory() -> None:
    """Let mounts in the directory appear in other mount namespaces that have it, and their unmounting."""
    _DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        linux.mount("", str(_DIRECTORY), "none", linux.MS_SHARED | linux.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is no mount point yet
            raise
        linux.mount(str(_DIRECTORY), str(_DIRECTORY), "none", linux.MS_BIND | linux.MS_REC)
        linux.mount("", str(_DIRECTORY), "none", linux.MS_SHARED | linux.MS_REC)
