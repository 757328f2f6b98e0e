"""The recorder moves the workers' journals into the database, each record exactly once, even if it is killed.

The checkpoint of a segment (the number of bytes stored) is written in the transaction that stores the records. Lines
that are not a record go to the quarantine file and are counted; they never keep other lines from being stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from egress import seccomp
from egress.config import Config, build
from egress.errors import EgressError, InputError, MalformedError
from egress.records.read import TIME_BYTES, record_time
from egress.records.seals import SegmentFollower
from egress.records.shape import Record
from egress.store.database.database import explain, open_database, require_schema, storing
from egress.store.database.tables import journal_checkpoints
from egress.store.recording.maintenance import Maintenance
from egress.store.recording.quarantine import quarantine, quarantine_file, size
from egress.store.recording.seals import SealKeeper, parse_record, stored
from egress.store.recording.segments import Segment, finished, read, segments, whole_lines
from egress.store.recording.storedseal import StoredSeal
from egress.store.recording.writer import store, upsert

POLL_SECONDS = 0.1
COMPLAIN_SECONDS = 10.0
GRACE = 60.0  # seconds that a finished segment is kept after its last write, so that a person can read it
BEATS = "--beats"
BEAT_SECONDS = 1.0
PASS_SECONDS = 3.0  # the longest pass; between two passes it reports its progress and runs maintenance
MAX_TROUBLE = 500  # characters of an error in a beat, so that a beat is written into the pipe whole or not at all


@dataclass(frozen=True, slots=True)
class Lag:
    """The part of the journal that is not in the database yet."""

    segments: int  # files in the journal directory
    unread: int  # bytes not in the database yet
    seconds: float  # age of the oldest record among them; 0 without any
    quarantined: int  # bytes in the quarantine file


class Recorder:
    """Moves records from `config.journal_dir` to `config.database_url`. Only one process at a time may do so.

    It opens the database, and creates or migrates it. Raises EgressError, InputError as `open_database` does.
    """

    def __init__(self, config: Config, *, grace: float = GRACE) -> None:
        self.stored = 0  # records
        self.garbage = 0  # lines that are not a record, and torn ends of segments whose writer died
        self.trouble = ""  # the last error in reading a segment
        self._directory = config.journal_dir
        self._quarantine = quarantine_file(config)
        self._grace, self._pressing = grace, config.journal.max_bytes // 2
        # If a gateway has run here, a missing database was moved away: the gateway waits for it, so none is created.
        self._engine = open_database(config.database_url, create=not config.policy_snapshot.exists())
        self._host = config.host_name
        _adopt(self._engine, self._host, self._directory)
        self._offsets = checkpoints(self._engine, self._host)
        self._maintenance = Maintenance(self._engine, config.retention)
        self._seals = SealKeeper()

    def run_once(self, seconds: float = math.inf) -> int:
        """Store the records that are in the journal now; returns their number. Begins no batch once `seconds` are over.

        Raises SQLAlchemyError if the database fails, OSError if the directory cannot be read; the error of a single
        segment is left in `trouble`. After an error no record is lost: call again.
        """
        before, stuck, end = self.stored, set[str](), time.monotonic() + seconds
        self.trouble = ""
        listed = segments(self._directory)
        pressed = sum(each.size for each in listed) >= self._pressing
        for segment in listed:
            if segment.writer in stuck:  # the records of a writer are stored in their order
                continue
            try:
                if not self._drain(segment, end, pressed=pressed):
                    break
            except FileNotFoundError:
                continue
            except OSError as error:
                stuck.add(segment.writer)
                self.trouble = f"cannot record {segment.path}: {error.strerror} ({error.filename})"
        return self.stored - before

    def offsets(self) -> dict[str, int]:
        """The checkpoints: segment name → number of bytes stored."""
        return dict(self._offsets)

    def maintain(self) -> str:
        """Run the next step of maintenance if one is due. Returns the text of an error, or an empty string."""
        return self._maintenance.step()

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def _drain(self, segment: Segment, end: float, *, pressed: bool) -> bool:
        """Store the rest of a segment. If it is finished, seal its end, and delete it once its grace is over.

        Returns False if the time `end` (monotonic clock) has passed. `pressed`: the journal is half full, so finished
        segments are deleted at once.
        """
        while (offset := self._offsets.get(segment.name, 0)) < segment.size:
            data = read(segment, offset)
            last = offset + len(data) >= segment.size and not data.endswith(b"\n") and finished(segment)
            lines, torn = whole_lines(data, last=last)
            if not lines and not torn:
                return True
            self._take(segment, offset, lines, torn)
            if time.monotonic() > end:
                return False
        grace, age = 0.0 if pressed else self._grace, time.time() - segment.modified
        # A negative age: the clock was set back. `pressed`: the segments of workers that are gone are deleted too.
        over = not 0.0 <= age <= grace
        if (over or not self._seals.ended(segment.name)) and finished(segment, abandoned=pressed and over):
            self._seals.end(self._engine, segment)
            if over:
                self._discard(segment)
        return True

    def _take(self, segment: Segment, offset: int, lines: list[bytes], torn: bytes) -> None:
        """Store the records of these lines and the checkpoint after them in one transaction."""
        try:
            self._store(segment, offset, lines, torn)
        except (SQLAlchemyError, OSError, EgressError):
            self._seals.forget(segment.name)  # it has followed lines that are not stored
            raise

    def _store(self, segment: Segment, offset: int, lines: list[bytes], torn: bytes) -> None:
        records, seals, aside = _parse(lines, self._seals.follower(segment, offset))
        if torn:
            aside.append(("torn line", torn))
        after = offset + sum(map(len, lines)) + len(lines) + len(torn)
        # Before the commit: if the process is killed in between, these lines are quarantined twice rather than lost.
        quarantine(self._quarantine, segment.name, offset, aside)
        with storing(self._engine) as connection:
            require_schema(connection)
            store(connection, [*records, *seals])
            _move(connection, self._host, segment.name, after)
        self._offsets[segment.name] = after
        self.stored += len(records)
        self.garbage += len(aside)

    def _discard(self, segment: Segment) -> None:
        """Delete a segment, first the file, then its checkpoint: a file without a checkpoint would be stored again."""
        segment.path.unlink()
        with storing(self._engine) as connection:
            this = (journal_checkpoints.c.host == self._host, journal_checkpoints.c.segment == segment.name)
            connection.execute(journal_checkpoints.delete().where(*this))
        self._offsets.pop(segment.name, None)
        self._seals.forget(segment.name)


def lag(config: Config, engine: Engine) -> Lag:
    """The lag of this host's recorder, for `egress doctor`. Raises OSError, SQLAlchemyError."""
    return behind(config, checkpoints(engine, config.host_name))


def behind(config: Config, offsets: dict[str, int]) -> Lag:
    """The lag of a recorder with the checkpoints `offsets` (segment name → bytes stored). Raises OSError."""
    listed = segments(config.journal_dir)
    unread = [each for each in listed if offsets.get(each.name, 0) < each.size]
    now = time.time()
    oldest = min((_oldest(each, offsets.get(each.name, 0)) for each in unread), default=now)
    count = sum(each.size - offsets.get(each.name, 0) for each in unread)
    return Lag(len(listed), count, max(now - oldest, 0.0), size(quarantine_file(config)))


def _oldest(segment: Segment, offset: int) -> float:
    """The time of the record at `offset`; if it is not a record, the time of the last write to the segment."""
    try:
        return record_time(read(segment, offset, TIME_BYTES))
    except (OSError, MalformedError):
        return segment.modified


def stalled(config: Config, engine: Engine, seconds: float = 1.0) -> list[str]:
    """Wait for `seconds`; return the names of segments with unread bytes whose checkpoint did not move meanwhile."""
    before = checkpoints(engine, config.host_name)
    unread = [each.name for each in segments(config.journal_dir) if before.get(each.name, 0) < each.size]
    if not unread:
        return []
    time.sleep(seconds)
    after, left = checkpoints(engine, config.host_name), {each.name for each in segments(config.journal_dir)}
    return [name for name in unread if name in left and after.get(name, 0) <= before.get(name, 0)]


def checkpoints(engine: Engine, host: str) -> dict[str, int]:
    """The checkpoints of one host (segment name → bytes stored); segments of two hosts may have the same name."""
    table = journal_checkpoints
    query = sa.select(table.c.segment, table.c.offset).where(table.c.host == host)
    with engine.connect() as connection:
        return {row.segment: row.offset for row in connection.execute(query)}


ARGUMENTS = (sys.executable, "-P", "-m", "egress.store.recording.recorder")  # the command line of a recorder process


def config_line(config: Config) -> str:
    """The config as a line of JSON, which the parent writes to the standard input of the recorder process.

    An argument would show the database's password to all users.
    """
    return json.dumps(dataclasses.asdict(config), default=str) + "\n"


def parse_config(text: str) -> Config:
    """Read the config from the text of a `config_line`. Raises InputError if it is not valid."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("egress.store.recording.recorder: expected the config as one line of JSON") from None
    return cast(Config, build(Config, document, "recorder config"))


def _parse(
    lines: list[bytes], follower: SegmentFollower
) -> tuple[list[Record], list[StoredSeal], list[tuple[str, bytes]]]:
    """Return the valid records and seals in lines, and each other line with the reason."""
    records: list[Record] = []
    seals: list[StoredSeal] = []
    aside: list[tuple[str, bytes]] = []
    for raw in lines:
        found = follower.line(raw)
        if found is not None and found.wrong:
            aside.append((f"seal {found.seal.number} {found.wrong}", raw))
        elif found is not None:
            seals.append(stored(found))
        else:
            try:
                records.append(parse_record(raw))
            except MalformedError as error:
                aside.append((str(error), raw))
    return records, seals, aside


def _adopt(engine: Engine, host: str, directory: Path) -> None:
    """Assign to this host the checkpoints of its segments that have no host yet, or in a SQLite file another host."""
    table = journal_checkpoints
    others = table.c.host != host if engine.dialect.name == "sqlite" else table.c.host == ""
    with engine.connect() as connection:
        found = connection.scalars(sa.select(table.c.segment).where(others)).all()
    ours = {each.name for each in segments(directory)}.intersection(found) if found else ()
    for name in ours:
        with storing(engine) as connection:
            # If this host has a checkpoint too, a recorder still ran under the former name; both are valid.
            connection.execute(table.delete().where(table.c.host == host, table.c.segment == name))
            connection.execute(table.update().where(others, table.c.segment == name).values(host=host))


def _move(connection: Connection, host: str, segment: str, offset: int) -> None:
    statement = upsert(connection, journal_checkpoints)
    new = statement.excluded
    moved = statement.on_conflict_do_update(
        index_elements=["host", "segment"], set_={"offset": new.offset, "updated": new.updated}
    )
    connection.execute(moved, {"host": host, "segment": segment, "offset": offset, "updated": time.time()})


# --- the process -------------------------------------------------------------------------------------------


class _Process:
    """Stores the journal in passes until SIGTERM, then in a last one. After an error the next pass tries again."""

    def __init__(self, config: Config, *, beats: bool) -> None:
        self._config, self._beats = config, beats
        self._recorder: Recorder | None = None
        self._offsets: dict[str, int] = {}
        self._stored = self._garbage = 0
        self._stopping = False
        self._said, self._beat = -COMPLAIN_SECONDS, 0.0

    def run(self) -> int:
        """Run until SIGTERM. Returns the exit code: 0, or 1 if the last pass failed (the journal keeps the records)."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the parent starts this process with it blocked
        # Ctrl-C reaches this process, too; the parent decides when it ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease (segments.finished) must not end the process
        if self._beats:
            os.set_blocking(1, False)
        while not self._stopping:
            self._pass()
            time.sleep(POLL_SECONDS)
        return 0 if self._pass() else 1

    def _stop(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _pass(self) -> bool:
        """Store for at most PASS_SECONDS, once stopping without a limit; returns False after an error."""
        try:
            if self._recorder is None:
                self._recorder = Recorder(self._config)
            self._recorder.run_once(math.inf if self._stopping else PASS_SECONDS)
            maintenance = "" if self._stopping else self._recorder.maintain()  # also if a segment has an error
            trouble = self._recorder.trouble or maintenance
        except (SQLAlchemyError, OSError, EgressError) as error:
            trouble = explain(error) if isinstance(error, DBAPIError) else " ".join(str(error).split())
            self._restart()
        if trouble and (self._stopping or time.monotonic() - self._said >= COMPLAIN_SECONDS):
            self._said = time.monotonic()
            sys.stderr.write(f"egress recorder: {trouble}; records wait in {self._config.journal_dir}\n")
            sys.stderr.flush()
        if self._beats and time.monotonic() - self._beat >= BEAT_SECONDS:
            self._beat = time.monotonic()
            self._report(trouble)
        return not trouble

    def _restart(self) -> None:
        """Close the recorder. The last commit may or may not have happened; the next recorder reads the checkpoints."""
        if self._recorder is None:
            return
        self._stored += self._recorder.stored
        self._garbage += self._recorder.garbage
        self._offsets = self._recorder.offsets()
        self._recorder.close()
        self._recorder = None

    def _report(self, trouble: str) -> None:
        """Write a line of progress for the parent to standard output; skip it if the parent is busy or gone."""
        now = self._recorder
        facts: dict[str, object] = {
            "stored": self._stored + (now.stored if now else 0),
            "garbage": self._garbage + (now.garbage if now else 0),
            "trouble": trouble[:MAX_TROUBLE],
        }
        with contextlib.suppress(OSError):
            left = behind(self._config, now.offsets() if now else self._offsets)
            facts |= {"segments": left.segments, "unread": left.unread, "seconds": round(left.seconds, 1)}
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(facts).encode("ascii") + b"\n")


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends, however it ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before the call
        os.kill(os.getpid(), signal.SIGTERM)


def main(line: str, *, beats: bool = False) -> int:
    """Record until SIGTERM with the config in `line`; `beats`: report progress each second. Returns the exit code."""
    _die_with_parent()
    try:
        config = parse_config(line)
    except InputError as error:
        sys.stderr.write(f"egress recorder: {error}\n")
        return error.exit_code
    seccomp.confine(seccomp.RECORDER)
    return _Process(config, beats=beats).run()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.readline(), beats=BEATS in sys.argv))
