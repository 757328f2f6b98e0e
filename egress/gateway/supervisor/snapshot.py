"""The policy and the agents last in force, on disk: a gateway starts with them if its database cannot be used.

One JSON document, {"version", "audit", "head", "host", "agents": [{agent, kind, value, created, host}, …], "rules":
[…], "sha256"}. The hash is over all bytes before its key: a file that is cut short or changed is refused as a whole.
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

SLICE = 250  # rules written at a time: about 2 ms of the event loop
BREATH = 0.005  # seconds for other tasks in between
_SEAL = b',"sha256":"'


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state in force at one moment."""

    version: int  # of the policy
    audit: int  # the newest audit entry it includes
    rules: tuple[Rule, ...] = ()
    agents: tuple[StoredAgent, ...] = ()
    host: str = ""  # the gateway's host name; "": written by a version without host names
    head: str = ""  # the hash of the audit entry; "": there is none, or written by a version that did not keep it


async def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file as a whole, readable for its owner only. Raises OSError, and then the file is as it was.

    Encoding 100,000 rules takes a second: it is done in slices, so that no other task waits for it.
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
    """Read the file; None if there is none. Raises EgressError for one that is damaged or of another version."""
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
            document.get("head", ""),
        )
    except (ValueError, KeyError, TypeError):
        raise EgressError(f"{path} is of another version of egress and cannot be used; move it away") from None


def seal(document: bytes) -> bytes:
    """Return the end of a document (all bytes before the hash's key): its hash, and the closing brace."""
    return _seal(hashlib.sha256(document).hexdigest())


def _seal(digest: str) -> bytes:
    return _SEAL + digest.encode() + b'"}\n'


def _pieces(snapshot: Snapshot) -> Iterator[bytes]:
    audit = {"audit": snapshot.audit, "head": snapshot.head}
    first = {"version": snapshot.version, **audit, "host": snapshot.host, "agents": snapshot.agents}
    yield encode(first)[:-2] + b',"rules":['
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
