"""Named network namespaces, as `ip netns` keeps them: a file in /run/netns with the namespace mounted on it.

So `ip netns list` and `ip netns exec` work with them. A killed process may leave a file without a mount; `remove`
deletes it, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from egress.gateway.kernel import linux

_DIRECTORY = Path("/run/netns")


def path(name: str) -> Path:
    """Return the file of a name, whether or not it exists."""
    return _DIRECTORY / name


def give_name(name: str, namespace: Path) -> None:
    """Give the namespace of a /proc/PID/ns/net file a name. Raises OSError; FileExistsError if the name is in use."""
    _share_directory()
    os.close(os.open(path(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    linux.mount(str(namespace), str(path(name)), "none", linux.MS_BIND)


def remove(name: str) -> None:
    """Unmount a namespace and remove its name; no effect if there is none. Raises OSError.

    The namespace itself lasts until its last process has ended.
    """
    try:
        linux.unmount(str(path(name)))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there
            raise
    path(name).unlink(missing_ok=True)


def processes(name: str) -> list[int]:
    """List the pids of the processes in a namespace, as far as /proc shows them; empty if there is no such name."""
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
    """Make /run/netns, and have mounts in it appear and disappear in other mount namespaces, too. Raises OSError."""
    _DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        linux.mount("", str(_DIRECTORY), "none", linux.MS_SHARED | linux.MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is no mount point yet
            raise
        linux.mount(str(_DIRECTORY), str(_DIRECTORY), "none", linux.MS_BIND | linux.MS_REC)
        linux.mount("", str(_DIRECTORY), "none", linux.MS_SHARED | linux.MS_REC)
