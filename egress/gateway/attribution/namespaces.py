"""Find the network namespace of an agent's flow: the one at the other end of the gateway's interface.

The kernel gives the number (nsid) of the namespace that a veth's other end is in. Behind a bridge, the right veth is
the port whose namespace has the flow's address. The namespace with that number is searched among /run/netns and all
processes, newest first. Only paths are remembered, and checked at each use: an open descriptor would keep a namespace,
and its links, alive.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from egress.gateway.attribution import links
from egress.gateway.attribution.proc import newest_first
from egress.gateway.kernel import linux

ABSENT_SECONDS = 0.1  # until a namespace that was not found is searched again: other flows must not wait
MAX_REMEMBERED = 4096
_NAMED = Path("/run/netns")
_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG

_K = TypeVar("_K")
_V = TypeVar("_V")

Identity = tuple[int, int]  # device and inode of a namespace's file


class UnknownNamespaceError(Exception):
    """The agent's namespace cannot be found; the text has the reason."""


@dataclass(frozen=True, slots=True)
class End:
    """The other end of a veth: the number of its namespace (`nsid`), and its index there (`device`)."""

    nsid: int
    device: int
    shared: bool  # one of several ends of a bridge


@dataclass(slots=True)
class OpenNamespace:
    """An open namespace, with netlink sockets in it. Close it soon: until then the namespace stays alive."""

    identity: Identity
    device: int  # index, inside, of the interface that leads to the gateway
    descriptor: int
    diag: socket.socket
    route: socket.socket

    def close(self) -> None:
        os.close(self.descriptor)
        self.diag.close()
        self.route.close()


class Namespaces:
    """Looks up agents' namespaces. Create it in the gateway's namespace, to which each call returns its thread."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._route = links.open_route()
        self._names: dict[int, str] = {}  # nsid → path
        self._owners: dict[tuple[int, bytes], End] = {}  # bridge and address → its end
        self._absent: dict[int, float] = {}  # nsid → until when it is not searched (monotonic)

    def close(self) -> None:
        os.close(self._home)
        self._route.close()

    def behind(self, interface: int, address: bytes) -> OpenNamespace:
        """Open the namespace with `address` (packed) that is behind the gateway's interface with this index.

        Raises UnknownNamespaceError if there is none on this host, OSError if the kernel refuses.
        """
        known = self._owners.get((interface, address))
        for end in [*([] if known is None else [known]), *self._ends(interface)]:
            try:
                place = self._open(end)
            except UnknownNamespaceError:
                if not end.shared:
                    raise
                continue
            if not end.shared or address in links.addresses(place.route):
                if end.shared:
                    _remember(self._owners, (interface, address), end)
                return place
            place.close()
            self._owners.pop((interface, address), None)
        raise UnknownNamespaceError("no namespace on this host has the flow's address")

    @contextmanager
    def inside(self, place: OpenNamespace) -> Iterator[None]:
        """Run the block with this thread in the namespace; a context manager. Raises OSError."""
        with self._entered(place.descriptor):
            yield

    def _ends(self, interface: int) -> Iterator[End]:
        """Yield the namespaces' ends behind an interface; of a bridge, those of all its ports."""
        found = links.link(self._route, interface)
        if found is None:
            raise UnknownNamespaceError("the gateway's interface to the agent is gone")
        ends = links.ports(self._route, interface) if found.kind == "bridge" else [found]
        inside = [each for each in ends if each.kind == "veth" and each.nsid is not None]
        if not inside:
            kind = found.kind or "device"
            raise UnknownNamespaceError(
                f"the agent is not on this host: no namespace of this host is behind {found.name} ({kind})"
            )
        for each in inside:
            if each.nsid is not None:
                yield End(each.nsid, each.peer, len(inside) > 1)

    def _open(self, end: End) -> OpenNamespace:
        descriptor = self._descriptor(end.nsid)
        opened: list[socket.socket] = []
        try:
            with self._entered(descriptor):
                opened.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG))
                opened.append(links.open_route())
            opened[0].settimeout(links.TIMEOUT)
            facts = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            for each in opened:
                each.close()
            raise
        return OpenNamespace((facts.st_dev, facts.st_ino), end.device, descriptor, *opened)

    @contextmanager
    def _entered(self, descriptor: int) -> Iterator[None]:
        linux.setns(descriptor, linux.CLONE_NEWNET)
        try:
            yield
        finally:
            try:
                linux.setns(self._home, linux.CLONE_NEWNET)
            except OSError as error:  # no lookup may run from there
                raise SystemExit(f"egress attribution: cannot leave an agent's namespace: {error}") from None

    def _descriptor(self, wanted: int) -> int:
        """Open the namespace whose number here is `wanted`. Returns a descriptor; raises UnknownNamespaceError."""
        path = self._names.get(wanted)
        if path is not None:
            if (descriptor := self._matching(path, wanted)) is not None:
                return descriptor
            del self._names[wanted]
        now = time.monotonic()
        if now < self._absent.get(wanted, 0.0):
            raise UnknownNamespaceError("the agent's namespace was not found a moment ago")
        seen: set[Identity] = set()
        for path in _paths():
            if (identity := namespace_of(path)) in seen or identity is None:
                continue
            seen.add(identity)
            if (descriptor := self._matching(path, wanted)) is not None:
                _remember(self._names, wanted, path)
                return descriptor
        _remember(self._absent, wanted, now + ABSENT_SECONDS)
        raise UnknownNamespaceError("no process or name on this host leads to the agent's namespace")

    def _matching(self, path: str, wanted: int) -> int | None:
        """Open the namespace file `path`. Returns its descriptor; None if its number here is not `wanted`."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if links.nsid(self._route, descriptor) == wanted:
                matching, descriptor = descriptor, -1
                return matching
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def namespace_of(path: str) -> Identity | None:
    """Return device and inode of a namespace by the path of its file; None if the file is gone."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - for thousands of processes
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _paths() -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(_NAMED) as entries:
        yield from (entry.path for entry in entries)
    yield from (f"/proc/{pid}/ns/net" for pid in newest_first())


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    if len(known) >= MAX_REMEMBERED:
        known.clear()
    known[key] = value
