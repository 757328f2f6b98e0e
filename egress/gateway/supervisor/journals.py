"""The journals of workers and attribution, as the supervisor sees them: their size, their bound, their health.

    bytes of all files, of journal.max_bytes    on_full: refuse                      on_full: continue
    from 7/8 on, until they are below 3/4       full: no new flow passes; the        –
                                                rest is for known flows
    from 99 % on, until they are below 3/4      as above                             full: new flows pass
    all of it                                   new records wait in memory, up to a bound; more are lost and counted

When the journal becomes full, that is logged, and the workers' segments are ended, so that the recorder can remove
them. Attribution writes nothing while it is full.

Each second each writer is granted an equal share of the remaining bytes, beyond those it had written by its last report
before they were measured. A writer stops by itself at its grant: so the bound holds while the supervisor is busy, too,
and costs an addition and a comparison per write.
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

HIGH, LOW = {"refuse": 7 / 8, "continue": 0.99}, 3 / 4  # of the bound: full from HIGH on, until below LOW
FIRST_HEADS_SECONDS, HEADS_SECONDS = 60.0, 600.0  # until the first log lines with the newest seals, and between them
SHARE = 8  # open segments, which cannot be removed, take at most 1/8 of the bound together

log = logging.getLogger("egress.gateway")


def fitted(config: Config, writers: int) -> Config:
    """Return the config with `journal.segment_bytes` reduced to fit `journal.max_bytes` for this number of writers.

    Raises InputError if `journal.max_bytes` is too small.
    """
    journal = config.journal
    most = journal.max_bytes // (SHARE * writers)
    if most < SEGMENT_BYTES:
        least = SHARE * writers * SEGMENT_BYTES
        raise InputError(
            f"journal.max_bytes: {journal.max_bytes} is too little for {writers} writers (workers and attribution):"
            f" {least} or more"
        )
    fitting = dataclasses.replace(journal, segment_bytes=min(journal.segment_bytes, most))
    return dataclasses.replace(config, journal=fitting)


class Journals:
    """The size, bound and health of the journals of `writers` processes: the workers, and attribution if it is on.

    Call `start` before the first worker starts, `measure` each second, `worker_gone` before a dead worker's successor
    starts, and `stopped` once all have ended.
    """

    def __init__(self, config: Config, writers: int) -> None:
        self._config, self._settings, self._writers = config, config.journal, writers
        self._bytes = 0
        self._full = False
        self._since: float | None = None
        self._healed = self._lost = self._times_full = 0  # torn last lines; records; how often it was full
        self._restored = 0  # how often its directory was made again or repaired
        self._restored_at: float | None = None
        self._heads_due = time.monotonic() + FIRST_HEADS_SECONDS
        self._seen: dict[int, dict[str, Any]] = {}  # each worker's last report about its journal

    def start(self) -> None:
        """Cut off unfinished last lines, where errors are logged, and measure the journals.

        Raises EgressError if their directory cannot be read.
        """
        if self._settings.on_full == "continue":
            log.warning(
                "journal.on_full: continue is configured: while records cannot be written new flows pass UNRECORDED"
            )
        self._heal()
        try:
            self._bytes = usage(self._config.journal_dir)
        except OSError as error:
            raise EgressError(f"cannot read {self._config.journal_dir}: {error.strerror}") from None
        self._update_full()

    def worker_gone(self, index: int) -> None:
        """Count a dead worker's lost records, also those in its memory; cut off its unfinished last line; measure."""
        last = self._seen.pop(index, {})
        self._lost += last.get("lost", 0) + last.get("waiting", 0)
        self._heal(f"worker-{index}")
        with contextlib.suppress(OSError):  # the successor's grant is made from it; else from the last measure
            self._bytes = usage(self._config.journal_dir)

    def stopped(self, pool: Pool) -> None:
        """Log the newest seals and the number of lost records. Call it once all workers have stopped."""
        for entry in pool.status():
            self._log_health(entry)
        self._log_heads()
        if lost := self.status()["lost"]:
            log.error("%d records were lost since the gateway started: the journal could not be written", lost)

    def grant(self, written: int = 0) -> JournalGrant:
        """Make a writer's grant: an equal share of the bytes that all may still write.

        `written`: the bytes it had written by its last report before the journals were measured.
        """
        return JournalGrant(written + max(self._settings.max_bytes - self._bytes, 0) // self._writers, self._full)

    async def measure(self, pool: Pool) -> None:
        """Measure the journals, order the workers' new grants, and log changes. Raises OSError."""
        before: dict[object, dict[str, Any]] = {entry["index"]: entry for entry in pool.status()}
        for entry in before.values():
            self._log_health(entry)
        if time.monotonic() >= self._heads_due:
            self._log_heads()
        self._bytes = await asyncio.to_thread(usage, self._config.journal_dir)
        self._update_full()
        for entry in pool.status():
            known = before[entry["index"]]
            if entry["pid"] is not None and entry["pid"] == known["pid"]:  # a successor got its grant with its setup
                share = self.grant(known["counters"].get("journal", {}).get("bytes", 0))
                pool.post(known["index"], "journal", {"limit": share.limit, "full": share.full})

    def note_restored(self, wrong: str) -> None:
        """Count and log that the journal's directory was made again or repaired. `wrong`: the reason in words."""
        self._restored, self._restored_at = self._restored + 1, time.time()
        log.error("the journal's directory %s %s: it is as it was again", self._config.journal_dir, wrong)

    def status(self) -> dict[str, object]:
        """Report the state of the journals, for `egress doctor` and the metrics."""
        return {
            "bytes": self._bytes,
            "max_bytes": self._settings.max_bytes,
            "full": self._full,
            "since": self._since,
            "times_full": self._times_full,
            "on_full": self._settings.on_full,
            "fsync": self._settings.fsync,
            "healed": self._healed,
            "restored": self._restored,
            "restored_at": self._restored_at,
            "lost": self._lost + sum(each.get("lost", 0) for each in self._seen.values()),
        }

    def _log_heads(self) -> None:
        """Log each worker's newest seal. The log is outside the database: it shows if records there were cut off."""
        self._heads_due = time.monotonic() + HEADS_SECONDS
        for index, journal in sorted(self._seen.items()):
            if journal.get("seal"):
                log.info("records of worker %d: seal %d, head %s", index, journal["seal"], journal["head"])

    def _heal(self, writer: str = "") -> None:
        """Move unfinished last lines, of one writer or all, to quarantine.jsonl. Errors are logged."""
        try:
            found = heal(self._config, writer)
        except OSError as error:
            log.error("cannot look for torn last lines in the journal; the recorder will set them aside: %s", error)
            return
        for each in found:
            self._healed += 1
            log.warning(
                "journal %s ended with %d bytes of an unfinished record when its writer died; they are now in "
                "quarantine.jsonl",
                *(each.segment, each.torn),
            )

    def _update_full(self) -> None:
        """Enter or leave the state full, and log that."""
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
            log.warning("the journal has room again (%d of %d bytes): new flows pass and are recorded", used, most)
            self._full, self._since = False, None

    def _log_health(self, entry: dict[str, Any]) -> None:
        """Keep a worker's report on its journal. Log when the journal fails, and when it works again."""
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
