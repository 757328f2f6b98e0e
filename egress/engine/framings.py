"""The protocols that the bytes of one flow may still be, of those that are in question."""

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

    `asked`: the protocols in question. `unseen`: the bytes of each direction that were skipped so far.
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
        """All protocols that are known were compared, and none is left."""
        return not self._open and self.excluded.issuperset(self._known)

    def begin(self, apps: Iterable[str], heads: tuple[bytes, bytes] | None) -> None:
        """Compare the flow with further protocols: `heads` are the bytes of both directions so far (out, in).

        None: they are not known any more, so the protocols are excluded.
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
        """Compare the flow with further protocols from the next byte on, in mid-stream."""
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
        """Take the next bytes of a direction, in order, or its next datagram."""
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
        """Return the only protocol that is left of those whose framing proves them, else ""."""
        proving = [app for app, framing in self._open.items() if framing.proves]
        return proving[0] if len(proving) == 1 else ""

    def records(self) -> Records | None:
        """Return where the agent's TLS records end, if the flow is TLS whose headers were all seen."""
        framing = self._open.get(App.TLS)
        if not isinstance(framing, TlsFraming) or framing.blind[Direction.OUT]:
            return None
        return framing.records[Direction.OUT]

    def _missing(self, apps: Iterable[str]) -> list[str]:
        return [app for app in apps if app not in self._open and app not in self.excluded and app != App.UNKNOWN]

    def _feed(self, app: str, direction: Direction, data: bytes) -> None:
        try:
            self._open[app].feed(direction, data)
        except MalformedError:
            self._exclude(app)

    def _exclude(self, app: str) -> None:
        self._open.pop(app, None)
        self.excluded |= {app}
