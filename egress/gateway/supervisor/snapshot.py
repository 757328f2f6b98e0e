"""The policy and the agents last in force, on disk: what a gateway starts with when its database is away.

One JSON document, {"version", "audit", "host", "agents": [{agent, kind, value, created, host}, …], "rules": […],
"sha256"}, the last over all bytes before it: a file that is not whole, or not ours, is refused rather than half used.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egress.errors import EgressError
from egress.gateway.pipe.messages import agent_from, encode, rule_from
from egress.model import Rule
from egress.store.policy.agents import StoredAgent

SLICE = 250  # rules written at a time: some 2 ms of the event loop
BREATH = 0.005  # seconds for others in between
_SEAL = b',"sha256":"'


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was in force together."""

    version: int  # of the policy
    audit: int  # the newest audit entry it knows of
    rules: tuple[Rule, ...] = ()
    agents: tuple[StoredAgent, ...] = ()
    host: str = ""  # whose it was; "": of before hosts were told apart


async def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file as a whole, readable for its owner only. Raises OSError, and then leaves it as it was.

    Encoding 100,000 rules takes a second: done in slices, so that nobody waits for it.
    """
    temporary = path.with_name(f"{path.name}.new")
    digest = hashlib.sha256()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in _pieces(snapshot):
            digest.update(piece)
            file.write(piece)
            await asyncio.sleep(BREATH)
        file.write(_seal(digest.hexdigest()))
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    await asyncio.to_thread(_replace, temporary, path)


def read(path: Path) -> Snapshot | None:
    """None where there is no file. Raises EgressError for one that cannot be trusted."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EgressError(f"cannot read {path}: {error.strerror}") from None
    sealed = raw.rpartition(_SEAL)[0]
    if not raw or raw != sealed + seal(sealed):
        raise EgressError(f"{path} is damaged and cannot be used; move it away")
    try:
        document = json.loads(raw)
        return Snapshot(
            document["version"],
            document["audit"],
            tuple(map(rule_from, document["rules"])),
            tuple(
                StoredAgent(
                    agent_from(item["agent"]), item["kind"], item["value"], item["created"], item.get("host", "")
                )
                for item in document["agents"]
            ),
            document.get("host", ""),
        )
    except (ValueError, KeyError, TypeError):
        raise EgressError(f"{path} is of another version of egress and cannot be used; move it away") from None


def seal(document: bytes) -> bytes:
    """What closes the document after all but its end."""
    return _seal(hashlib.sha256(document).hexdigest())


def _seal(digest: str) -> bytes:
    return _SEAL + digest.encode() + b'"}\n'


def _pieces(snapshot: Snapshot) -> Iterator[bytes]:
    head = {"version": snapshot.version, "audit": snapshot.audit, "host": snapshot.host, "agents": snapshot.agents}
    yield encode(head)[:-2] + b',"rules":['
    for start in range(0, len(snapshot.rules), SLICE):
        comma = b"," if start else b""
        yield comma + encode(snapshot.rules[start : start + SLICE])[1:-2] + b"\n"
    yield b"]"


def _replace(temporary: Path, path: Path) -> None:
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
