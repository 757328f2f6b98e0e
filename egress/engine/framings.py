"""Compares the bytes of one flow with the framings of application protocols: which of them can it still be?"""

from __future__ import annotations

from collections.abc import Iterable

from egress.dissection.framing import Framing
from egress.dissection.framings.tls import TlsFraming
from egress.dissection.registry import REGISTRY
from egress.errors import MalformedError
from egress.model import App, Direction
from egress.wire.tlsrecords import Records

NONE: frozenset[str] = frozenset()  # shared: an empty one of its own would take a fifth of a refused flow's memory


class Framings:
    """Compares the bytes of one flow with the framings of protocols. `excluded`: those that the bytes contradict.

    `asked`: the protocols that the flow's rule demanded when they were last compared. `unseen`: the number of bytes of
    each direction that were skipped so far.
    """

    __slots__ = ("_known", "_open", "asked", "excluded", "unseen")

    def __init__(self, proto: int, asked: frozenset[str]) -> None:
        self._known = REGISTRY.framings.get(proto, {})
        self._open: dict[str, Framing] = {}
        self.excluded = NONE
        self.asked = asked
        self.unseen = [0, 0]

    @property
    def exhausted(self) -> bool:
        """True if all known protocols were compared, and none is left."""
        return not self._open and self.excluded.issuperset(self._known)

    def begin(self, apps: Iterable[str], heads: tuple[bytes, bytes] | None) -> None:
        """Compare the flow with further protocols: `heads` are the bytes of both directions so far (out, in).

        With None they are not known any more, and all these protocols are excluded, as are those without a framing.
        """
        for app in self._missing(apps):
            kind = self._known.get(app)
            if kind is None or heads is None:
                self._exclude(app)
                continue
            self._open[app] = kind()
            for direction in Direction:
                if heads[direction] and app in self._open:
                    self._feed(app, direction, heads[direction])

    def pick_up(self, apps: Iterable[str]) -> None:
        """Compare the flow with further protocols from the next byte on, in mid-stream.

        A protocol without a framing, or with one that cannot begin in mid-stream, is excluded.
        """
        for app in self._missing(apps):
            kind = self._known.get(app)
            try:
                if kind is None:
                    raise MalformedError("no such protocol here")
                framing = kind()
                framing.pick_up()
            except MalformedError:
                self._exclude(app)
            else:
                self._open[app] = framing

    def feed(self, direction: Direction, data: bytes) -> None:
        """Compare the next bytes of a direction, in order, or its next datagram, with all protocols that are left."""
        for app in tuple(self._open):
            self._feed(app, direction, data)

    def lose(self, direction: Direction) -> None:
        """Check no more bytes of a direction: some of them were not seen."""
        for framing in self._open.values():
            framing.blind[direction] = True

    def others(self) -> frozenset[str]:
        """Return the known protocols that the flow was not compared with yet."""
        return frozenset(self._missing(self._known))

    def proven(self) -> str:
        """Return the one protocol left whose framing proves it; "" if there is none, or more than one."""
        proving = [app for app, framing in self._open.items() if framing.proves]
        return proving[0] if len(proving) == 1 else ""

    def records(self) -> Records | None:
        """Return the reader of the agent's TLS records; None if the flow is not TLS, or bytes were not seen."""
        framing = self._open.get(App.TLS)
        if not isinstance(framing, TlsFraming) or framing.blind[Direction.OUT]:
            return None
        return framing.records[Direction.OUT]

    def _missing(self, apps: Iterable[str]) -> list[str]:
        """Return those of the protocols that the flow was not compared with yet, `unknown` apart."""
        return [app for app in apps if app not in self._open and app not in self.excluded and app != App.UNKNOWN]

    def _feed(self, app: str, direction: Direction, data: bytes) -> None:
        """Compare bytes with one protocol, and exclude it if they contradict it."""
        try:
            self._open[app].feed(direction, data)
        except MalformedError:
            self._exclude(app)

    def _exclude(self, app: str) -> None:
        """Exclude a protocol: it is not compared any more."""
        self._open.pop(app, None)
        self.excluded |= {app}
