"""Block the agents while no gateway runs, at boot and after a stop, or let their packets pass on purpose ("open").

The gateway writes the interfaces that it guards to `state_dir/interfaces.json`: at boot, before namespaces exist, they
cannot be found otherwise. The note of an opening is in `run_dir`, which a reboot empties: then all are blocked again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from egress.config import Config
from egress.errors import EgressError
from egress.gateway.kernel.attachment import Attachment
from egress.gateway.kernel.guard import Guard
from egress.gateway.sandbox import attach
from egress.gateway.supervisor import snapshot
from egress.gateway.supervisor.startup import only_one
from egress.store.database.tables import SANDBOX
from egress.store.policy.agents import StoredAgent


@dataclass(frozen=True, slots=True)
class Blocked:
    """The result of blocking: the agents behind each interface, and the agents whose interface is not known."""

    interfaces: dict[str, tuple[str, ...]]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """The note of an opening: who opened, the time (seconds since the epoch), and the names of the agents."""

    actor: str
    at: float
    agents: tuple[str, ...]


def remember(config: Config, attachments: Iterable[Attachment]) -> None:
    """Write the interfaces of attached agents to their file if they have changed. Raises EgressError.

    Sandboxes are left out: they end with the gateway.
    """
    found: dict[str, list[str]] = {}
    for each in attachments:
        if not each.masquerade and each.interface not in found.setdefault(each.agent, []):
            found[each.agent].append(each.interface)
    path = config.interfaces_file
    if found != _remembered(path):
        _write(path, found)


def block(config: Config) -> Blocked:
    """Block the agents of this host in the kernel, and delete the note of an opening.

    The agents are those of the policy snapshot, which the gateway writes after each edit. Raises EgressError while a
    gateway runs, or if the kernel refuses.
    """
    with only_one(config.run_dir):
        known = snapshot.read(config.policy_snapshot)
        found, unknown = places(config, known.agents if known is not None else ())
        if found:
            guard = Guard(config)
            guard.block([Attachment(agents[0], name, (), 0, 1, masquerade=False) for name, agents in found.items()])
            guard.close()
        config.opened_note.unlink(missing_ok=True)
        return Blocked(found, unknown)


def places(config: Config, agents: Iterable[StoredAgent]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Find the interfaces of agents: those that their attachments name now, and the last that the gateway saw.

    Returns the names of the agents behind each interface, and the agents without a known interface. Sandboxes are left
    out.
    """
    remembered = _remembered(config.interfaces_file)
    found: dict[str, tuple[str, ...]] = {}
    unknown = []
    for stored in agents:
        if stored.kind == SANDBOX:
            continue
        names = [*remembered.get(stored.agent.name, ()), _behind(stored.kind, stored.value)]
        for name in filter(None, dict.fromkeys(names)):
            found[name] = (*found.get(name, ()), stored.agent.name)
        if not any(names):
            unknown.append(stored.agent.name)
    return found, tuple(unknown)


@contextmanager
def stopped(config: Config) -> Iterator[None]:
    """Hold the gateway's lock while the `with` statement runs: no gateway can start. Raises EgressError if one runs."""
    with only_one(config.run_dir):
        yield


def open_up(config: Config, note: Opened) -> None:
    """Remove the kernel rules, so that agents' packets pass unguarded, and write `note`.

    Raises EgressError while a gateway runs, or if the kernel refuses.
    """
    with only_one(config.run_dir):
        _write(config.opened_note, {"actor": note.actor, "at": note.at, "agents": note.agents})
        guard = Guard(config)
        guard.remove()
        guard.close()


def opened(config: Config) -> Opened | None:
    """Read the note of an opening; None if there is none, or it may not be read. A damaged one has the actor `?`."""
    try:
        note = json.loads(config.opened_note.read_text(encoding="utf-8"))
        return Opened(str(note["actor"]), float(note["at"]), tuple(map(str, note["agents"])))
    except (FileNotFoundError, PermissionError):
        return None
    except (ValueError, KeyError, TypeError):
        return Opened("?", time.time(), ())


def _behind(kind: str, value: str) -> str:
    """Return the interface of an attachment now; empty if it is unknown, as that of a namespace before it exists."""
    try:
        return attach.behind(kind, value)
    except EgressError:
        return value.rpartition("@")[2] if kind != "netns" else ""


def _remembered(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(agent): list(map(str, names)) for agent, names in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, document: object) -> None:
    draft = path.with_name(f"{path.name}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise EgressError(f"cannot write {path}: {error.strerror}; check state_dir and run_dir") from None
