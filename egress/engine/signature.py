"""The base class of detectors, a flow as they see it, and helpers for the engine and for the text of findings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from ipaddress import ip_address
from typing import ClassVar, Protocol, Self

from egress.dissection.events import Event
from egress.limits import Limits
from egress.model import Finding, Rule, Severity


class FlowView(Protocol):
    """The part of a flow that a signature may read."""

    agent: str
    proto: int
    local: bytes  # packed address of the agent's side
    lport: int
    remote: bytes  # packed address of the other side
    rport: int
    outbound: bool  # the agent opened it
    picked_up: bool  # first seen in mid-stream: its opener is not known
    app: str  # `model.App` once identified, else ""
    rule: Rule | None  # the allow rule that admitted it

    @property
    def server_port(self) -> int:
        """The port of the side that did not open the flow."""
        ...

    def scratch(self, signature: str) -> dict[str, object]:
        """Return the state that one signature keeps on this flow. It is dropped with the flow; keep it bounded."""
        ...


class SignatureSettings(Protocol):
    """The part of a config that signatures may read."""

    @property
    def beacon_alpha(self) -> float: ...

    @property
    def limits(self) -> Limits: ...


class Signature(ABC):
    """One detector: a class in a file of `signatures/`. An engine owns one instance, which may keep (bounded) state.

    `see` is called for each event whose type is in `listens`. It must not raise, must run in bounded time and memory,
    and must read no clock: time is in the events.
    """

    id: str  # family.name
    severity: Severity
    technique: str  # MITRE ATT&CK
    listens: ClassVar[tuple[type, ...]]
    patterns: ClassVar[
        tuple[bytes, ...]
    ] = ()  # regular expressions that reopen a settled flow (`egress.engine.patterns`)

    @classmethod
    def configured(cls, config: SignatureSettings) -> Self:  # noqa: ARG003 - for those that have settings
        """Make an instance with the settings of a config."""
        return cls()

    @abstractmethod
    def see(self, event: Event, flow: FlowView) -> Finding | None:
        """Return a Finding to flag the flow, else None. Besides the instance only `flow.scratch` may be changed."""


def listeners(signatures: Iterable[Signature]) -> dict[type, list[Signature]]:
    """Map each type of event to the signatures that listen to it, in their order."""
    found: dict[type, list[Signature]] = {}
    for signature in signatures:
        for event in signature.listens:
            found.setdefault(event, []).append(signature)
    return found


def printable(text: str | bytes, limit: int = 64) -> str:
    """Return the first `limit` characters of text from the wire, then `…` if there were more.

    Each character that is not printable ASCII becomes `?`.
    """
    if isinstance(text, bytes):
        text = text[: limit + 1].decode("latin-1")
    clean = "".join(char if " " <= char <= "~" else "?" for char in text[:limit])
    return clean + "…" if len(text) > limit else clean


def endpoint(address: bytes, port: int) -> str:
    """Write a packed address and a port as `203.0.113.9:443` or `[2001:db8::9]:443`."""
    host = ip_address(address)
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
