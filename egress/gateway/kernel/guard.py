"""Install, inspect and remove the guard of agents in the kernel: our nftables table, and the barrier as its backup.

The table (`table.py`) queues or refuses agents' packets. From Linux 6.9 it belongs to the process that installed it and
outlives it: no other process can change it, and when the gateway is killed its queues have no reader and drop packets
until the next gateway takes it over. While agents are blocked the table may have no owner; then routing rules
(`barrier.py`) refuse packets should it be deleted. Both are replaced in place: installing twice equals installing once,
and rules of other programs stay as they are.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel import barrier, formerchains, table
from egress.gateway.kernel import nftables as nft
from egress.gateway.kernel.attachment import Attachment
from egress.gateway.kernel.marks import Marks
from egress.gateway.kernel.netlink import attributes
from egress.gateway.kernel.nftables import Nftables

_ATTEMPTS = 3  # another program may change the rules between our reading and our writing
_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL)  # of flags that a kernel does not know


class State(NamedTuple):
    """The interfaces and queues that table and barrier hold now, installed by any process."""

    interfaces: frozenset[str]  # whose packets the table queues or refuses
    queues: frozenset[int]  # full-depth and settled; empty: it refuses everything
    behind: frozenset[str]  # interfaces that the barrier holds back


class Guard:
    """Installs, checks and removes table and barrier. Owns the table until `close`. Calls may come from threads.

    Every method raises EgressError where the kernel refuses.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bit = Marks(config.mark_mask).value("seen")
        self._kernel = Nftables()
        self._lock = threading.Lock()
        self._behind: tuple[str, ...] = ()  # interfaces that the barrier must hold back
        self._fingerprint = b""
        self._generation = -1
        self._upgraded = False
        self.owned = True  # False: this kernel lets other programs change the table

    @property
    def port(self) -> int:
        """The netlink port id that our changes of the table have in the kernel's notifications."""
        return self._kernel.port

    def install(self, attachments: Sequence[Attachment]) -> None:
        """Queue the packets of the attachments' interfaces, in place of earlier rules of ours; lower the barrier."""
        self._replace(attachments, blocking=False)

    def block(self, attachments: Sequence[Attachment]) -> None:
        """Refuse all packets of the attachments' interfaces in the kernel, without a worker, and raise the barrier."""
        self._replace(attachments, blocking=True)

    def remove(self) -> None:
        """Remove the table and the barrier, if they are there."""
        with self._lock:
            self._behind, self._fingerprint = (), b""
            for message in table.removal():
                try:
                    self._kernel.apply([message])
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise _explained(error) from None
            barrier.lower()

    def installed(self) -> bool:
        """Return True if table and barrier are as this process's last `install` or `block` left them.

        False before the first of these and after `remove`.
        """
        with self._lock:
            try:
                generation = self._kernel.generation()
                if generation != self._generation:
                    if self._read() != self._fingerprint:
                        return False
                    self._generation = generation
            except OSError as error:
                raise _explained(error) from None
            return bool(self._fingerprint) and barrier.standing(self._behind, self._bit)

    def close(self) -> None:
        """Give up the ownership of the table, which stays in the kernel as it is."""
        self._kernel.close()

    def _replace(self, attachments: Sequence[Attachment], *, blocking: bool) -> None:
        names = tuple(table.interfaces(attachments))
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._apply(attachments, blocking=blocking)
                    break
                except OSError as error:
                    if attempt == _ATTEMPTS or error.errno == errno.EPERM:
                        raise _explained(error) from None
            if not self._upgraded:
                formerchains.remove()
                self._upgraded = True
            self._behind = names if blocking else ()
            barrier.raise_barrier(self._behind, self._bit)
            try:
                self._generation, self._fingerprint = self._kernel.generation(), self._read()
            except OSError as error:
                raise _explained(error) from None

    def _apply(self, attachments: Sequence[Attachment], *, blocking: bool) -> None:
        stale = [name for name in _chains(self._kernel) if _number(name) is not None]
        for owned in (True, False) if self.owned else (False,):
            found = table.messages(attachments, self._config, blocking=blocking, owned=owned, stale=stale)
            try:
                self._kernel.apply(found)
            except OSError as error:
                if not owned or error.errno not in _UNKNOWN:
                    raise
            else:
                self.owned = owned
                return

    def _read(self) -> bytes:
        """Compute a digest of the table's chains, rules and interfaces, without handles and use counts."""
        digest = hashlib.sha256()
        for kind, wanted in ((nft.GETCHAIN, (3, 4, 5, 7)), (nft.GETRULE, (2, 4))):
            for found in self._kernel.listing(kind, table.NAME):
                digest.update(b"".join(found.get(key, b"") + b"|" for key in wanted))
        for name in (table.AGENTS, table.OUT, table.IN):
            for key, target in sorted((each[1], each.get(2, b"")) for each in self._kernel.elements(table.NAME, name)):
                digest.update(key + b"|" + target)
        return digest.digest()


def state() -> State:
    """Read the guard from the kernel; all sets are empty without one. Raises EgressError."""
    kernel = Nftables()
    try:
        names = kernel.elements(table.NAME, table.AGENTS)
        chains = _chains(kernel)
    except OSError as error:
        raise _explained(error) from None
    finally:
        kernel.close()
    found = (_number(name) for name in chains if name.startswith(table.OUT))
    queues = [number for number in found if number is not None]
    return State(
        frozenset(attributes(each[1])[1].rstrip(b"\0").decode(errors="replace") for each in names),
        frozenset([*queues, *(number + 1 for number in queues)]),
        frozenset(barrier.held_back()),
    )


def counters() -> dict[str, int]:
    """Return the counts of refused packets since the table was made, zeros without a table. Raises EgressError.

    `rejected`: answered with a TCP reset or ICMP. `dropped`: not answered. Part of these two are `unqueued`, which the
    mark of their connection refused before they reached a worker, and `api`, which were sent to the API's port. Both
    families are counted together.
    """
    kernel = Nftables()
    try:
        listed = kernel.listing(nft.GETOBJECT, table.NAME)
    except FileNotFoundError:
        listed = []
    except OSError as error:
        raise _explained(error) from None
    finally:
        kernel.close()
    found = dict.fromkeys(table.COUNTERS, 0)
    for each in listed:
        name, values = each[2].rstrip(b"\0").decode(), attributes(each[4])
        if name in found:
            found[name] = struct.unpack(">Q", values[2])[0]
    return found


def _chains(kernel: Nftables) -> list[str]:
    try:
        return [each[3].rstrip(b"\0").decode() for each in kernel.listing(nft.GETCHAIN, table.NAME)]
    except FileNotFoundError:
        return []


def _number(chain: str) -> int | None:
    """Read the queue from a chain's name, `out-7400`; None for another chain."""
    side, _, number = chain.partition("-")
    return int(number) if side in (table.OUT, table.IN) and number.isdecimal() else None


def _explained(error: OSError) -> EgressError:
    if error.errno == errno.EPERM and os.geteuid() == 0:
        return EgressError(
            "the kernel's table `inet egress` belongs to another process: another gateway guards this network "
            "namespace; stop it first (or CAP_NET_ADMIN is missing)"
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return EgressError("changing the kernel's rules is not permitted: start egress as root (CAP_NET_ADMIN)")
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL):
        needed = "nf_tables nft_compat nft_ct nft_masq nft_reject_inet xt_NFQUEUE nfnetlink_queue"
        return EgressError(f"the kernel lacks something our rules need: run `modprobe -a {needed}` ({error.strerror})")
    return EgressError(f"cannot change the kernel's rules: {error.strerror or error}")
