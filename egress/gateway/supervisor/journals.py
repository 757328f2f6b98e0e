"""The workers' journals as the supervisor sees them: their size and bound, their health, and segments of dead workers.

    bytes of all segments, of journal.max_bytes     on_full: refuse                        on_full: continue
    from 7/8 on, until they are below 3/4           no new flow passes; the remaining      –
                                                    bytes are for known flows
    all of it                                       new records wait in memory, then are lost and counted

Each second a worker is granted its share of the remaining bytes, counted from what it had written when they were
measured. It stops by itself once the grant is used up: so the bound holds while the supervisor is busy, too, and costs
an addition a write.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import Any

from egress.config import SEGMENT_BYTES, Config
from egress.errors import EgressError, InputError
from egress.gateway.pipe.messages import JournalGrant
from egress.gateway.supervisor.processes.pool import Pool
from egress.store.recording.healing import heal
from egress.store.recording.segments import usage

HIGH, LOW = {"refuse": 7 / 8, "continue": 0.99}, 3 / 4  # no worker writes up to the last byte
SHARE = 8  # segments that are being written to may take an eighth of the bound, all together

log = logging.getLogger("egress.gateway")


def fitted(config: Config, workers: int) -> Config:
    """Make segments small enough for the bound: only finished ones can be removed. Raises InputError."""
    journal = config.journal
    most = journal.max_bytes // (SHARE * workers)
    if most < SEGMENT_BYTES:
        least = SHARE * workers * SEGMENT_BYTES
        raise InputError(f"journal.max_bytes: {journal.max_bytes} is too little for {workers} workers: {least} or more")
    fitting = dataclasses.replace(journal, segment_bytes=min(journal.segment_bytes, most))
    return dataclasses.replace(config, journal=fitting)


class Journals:
    """All journals. Call `start` before there is a worker, `measure` each second, `worker_gone` after each end of one,
    and `stopped` last.
    """

    def __init__(self, config: Config, workers: int) -> None:
        self._config, self._settings, self._workers = config, config.journal, workers
        self._bytes = 0
        self._full = False
        self._since: float | None = None
        self._healed = self._lost = self._times_full = 0  # torn ends; lines; how often the bound was reached
        self._seen: dict[int, dict[str, Any]] = {}  # each worker's last report about its journal

    def start(self) -> None:
        """Heal and measure the journals. Raises EgressError."""
        if self._settings.on_full == "continue":
            log.warning(
                "journal.on_full: continue is configured: while records cannot be written new flows pass UNRECORDED"
            )
        self._heal()
        try:
            self._bytes = usage(self._config.journal_dir)
        except OSError as error:
            raise EgressError(f"cannot look into {self._config.journal_dir}: {error.strerror}") from None
        self._judge()

    def worker_gone(self, index: int) -> None:
        """Count the lines that a dead worker had in memory, and cut off its torn last line."""
        last = self._seen.pop(index, {})
        self._lost += last.get("lost", 0) + last.get("waiting", 0)
        self._heal(f"worker-{index}")
        with contextlib.suppress(OSError):  # its successor gets a share of the bytes that remain now
            self._bytes = usage(self._config.journal_dir)

    def stopped(self, pool: Pool) -> None:
        """Report lost records, once all workers have ended in order and reported for the last time."""
        for entry in pool.status():
            self._log_health(entry)
        if lost := self.status()["lost"]:
            log.error("%d records were lost since the gateway started: the journal could not be written", lost)

    def grant(self, written: int = 0) -> JournalGrant:
        """Grant a worker its share. It had `written` bytes when the journals were measured, or before."""
        return JournalGrant(written + max(self._settings.max_bytes - self._bytes, 0) // self._workers, self._full)

    async def measure(self, pool: Pool) -> None:
        """Measure the journals, grant the workers their shares, log changes. Raises OSError."""
        before: dict[object, dict[str, Any]] = {entry["index"]: entry for entry in pool.status()}
        for entry in before.values():
            self._log_health(entry)
        self._bytes = await asyncio.to_thread(usage, self._config.journal_dir)
        self._judge()
        for entry in pool.status():
            known = before[entry["index"]]
            if entry["pid"] is not None and entry["pid"] == known["pid"]:  # else its setup has just told it
                share = self.grant(known["counters"].get("journal", {}).get("bytes", 0))
                pool.post(known["index"], "journal", {"limit": share.limit, "full": share.full})

    def status(self) -> dict[str, object]:
        return {
            "bytes": self._bytes,
            "max_bytes": self._settings.max_bytes,
            "full": self._full,
            "since": self._since,
            "times_full": self._times_full,
            "on_full": self._settings.on_full,
            "fsync": self._settings.fsync,
            "healed": self._healed,
            "lost": self._lost + sum(each.get("lost", 0) for each in self._seen.values()),
        }

    def _heal(self, writer: str = "") -> None:
        try:
            found = heal(self._config, writer)
        except OSError as error:
            log.error("the journal cannot be searched for torn ends; the recorder will do that: %s", error)
            return
        for each in found:
            self._healed += 1
            log.warning(
                "journal %s ended with %d bytes of an unfinished record when its worker died; they are in "
                "quarantine.jsonl",
                *(each.segment, each.torn),
            )

    def _judge(self) -> None:
        used, most = self._bytes, self._settings.max_bytes
        refuses = self._settings.on_full == "refuse"
        if not self._full and used >= most * HIGH[self._settings.on_full]:
            self._full, self._since = True, time.time()
            self._times_full += 1
            effect = "new flows are refused" if refuses else "new flows pass, and records past the bound are lost"
            log.error(
                "the journal has %d of at most %d bytes: %s until the recorder has caught up; see egress doctor",
                *(used, most, effect),
            )
        elif self._full and used < most * LOW:
            log.warning("the journal has room again (%d of %d bytes): new flows pass, on record", used, most)
            self._full, self._since = False, None

    def _log_health(self, entry: dict[str, Any]) -> None:
        """Log when a worker's journal fails, and when it works again."""
        index, now = entry["index"], entry["counters"].get("journal")
        if not now:
            return
        before = self._seen.get(index, {})
        self._seen[index] = now
        if not now["healthy"] and before.get("healthy", True):
            refuses = self._settings.on_full == "refuse"
            effect = "no new flow passes" if refuses else "new flows pass UNRECORDED, and are counted"
            log.error("worker %d cannot write its journal (%s): %s until it can", index, now["error"], effect)
        elif now["healthy"] and not before.get("healthy", True):
            log.warning("worker %d writes its journal again; %d records were lost so far", index, now["lost"])
