"""The four adjacent bits of packet and connection marks that egress uses, and their meaning.

A worker answers the kernel with a verdict and a packet mark; the chains of `egress.gateway.kernel.table` act on the
mark, keep it on the connection and zero it on the packet. NFQUEUE replaces a packet's whole mark: use `Marks.put`,
which leaves the other 28 bits as they are.
"""

from __future__ import annotations

from typing import NamedTuple

UNDECIDED = 0  # every packet is queued at full depth
SETTLED = 1  # accepted: the agent's packets go to the settled queue, replies are not queued
REFUSED = 2  # answered with a TCP reset or ICMP administratively prohibited
DROPPED = 3  # refused without an answer
RECHECK = 4  # was settled, is undecided again (a mark of 0 would not be kept on the connection)
SEEN = 8  # of packets only, from prerouting to their queue: the table is there, the barrier lets them go on

VALUES = {
    "undecided": UNDECIDED,
    "settled": SETTLED,
    "refused": REFUSED,
    "dropped": DROPPED,
    "recheck": RECHECK,
    "seen": SEEN,
}
KEPT = ("settled", "refused", "dropped", "recheck")  # on connections


class Marks(NamedTuple):
    """The marks as 32-bit numbers, shifted to our bits: the four adjacent ones of `config.mark_mask`."""

    mask: int

    @property
    def shift(self) -> int:
        """The position of our lowest bit."""
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def refusal_mask(self) -> int:
        """The upper three of our bits: under this mask only REFUSED and DROPPED equal `value("refused")`."""
        return 0b1110 << self.shift

    def value(self, name: str) -> int:
        """Shift one of `VALUES` into place (KeyError otherwise)."""
        return VALUES[name] << self.shift

    def put(self, mark: int, name: str) -> int:
        """Set our bits of `mark` to `name`. Returns the mark with the other bits as they were."""
        return mark & ~self.mask & 0xFFFFFFFF | self.value(name)
