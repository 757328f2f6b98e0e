"""The recorder moves the workers' journals into the database, each record exactly once, whenever it is killed.

How far a segment is read (its checkpoint) is stored in the transaction that stores its records. What cannot be a
record is kept aside in `quarantine.jsonl` and counted; it never stops the rest.
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

from egress.config import Config, build
from egress.errors import EgressError, InputError, MalformedError
from egress.records.read import TIME_BYTES, parse_line, record_time
from egress.records.shape import Record
from egress.store.database.database import explain, open_database, require_schema, storing
from egress.store.database.tables import journal_checkpoints
from egress.store.recording.maintenance import Upkeep
from egress.store.recording.quarantine import keep_aside, quarantine_file, size
from egress.store.recording.segments import Segment, finished, read, segments, whole_lines
from egress.store.recording.writer import store, upsert

POLL_SECONDS = 0.1
COMPLAIN_SECONDS = 10.0
GRACE = 60.0  # seconds a finished segment is left lying, for whoever looks into the directory
BEATS = "--beats"
BEAT_SECONDS = 1.0
PASS_SECONDS = 3.0  # then it says how far it is, and does what else there is to do, however much is left
MAX_TROUBLE = 500  # characters of it in a beat, so that one is written whole into a pipe or not at all


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the recorder is behind."""

    segments: int  # files in the journal directory
    unread: int  # bytes not in the database yet
    seconds: float  # since the oldest record among them
    quarantined: int  # bytes of garbage kept aside


class Recorder:
    """Reads `config.journal_dir`, writes `config.database_url`; one process at a time."""

    def __init__(self, config: Config, *, grace: float = GRACE) -> None:
        self.stored = 0  # records
        self.garbage = 0  # lines that are no record, and torn ends of segments whose writer died
        self.trouble = ""  # the last segment that could not be read, and why
        self._directory = config.journal_dir
        self._quarantine = quarantine_file(config)
        self._grace, self._pressing = grace, config.journal.max_bytes // 2
        # Not in place of one that is gone: the gateway has what was in force there on disk, and waits for it.
        self._engine = open_database(config.database_url, create=not config.policy_snapshot.exists())
        self._host = config.host_name
        _adopt(self._engine, self._host, self._directory)
        self._offsets = checkpoints(self._engine, self._host)
        self._upkeep = Upkeep(self._engine, config.retention)

    def run_once(self, seconds: float = math.inf) -> int:
        """Store what the journal held when the call began, or what can be in so long; returns the number of records.

        Raises SQLAlchemyError where the database fails, OSError where the directory does; a single segment's trouble
        is left in `trouble`. Nothing is lost either way: call again.
        """
        before, stuck, end = self.stored, set[str](), time.monotonic() + seconds
        self.trouble = ""
        listed = segments(self._directory)
        pressed = sum(each.size for each in listed) >= self._pressing
        for segment in listed:
            if segment.writer in stuck:  # what a writer wrote later is stored later
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
        """Segment name → bytes stored."""
        return dict(self._offsets)

    def keep_up(self) -> str:
        """A short piece of what else there is to do, see Upkeep. Returns what went wrong."""
        return self._upkeep.step()

    def close(self) -> None:
        self._engine.dispose()

    def _drain(self, segment: Segment, end: float, *, pressed: bool) -> bool:
        """Returns whether there is time for more."""
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
        # Without grace where the clock was set back; pressed, also what a worker left of which there is none any more.
        if not 0.0 <= age <= grace and finished(segment, abandoned=pressed):
            self._discard(segment)
        return True

    def _take(self, segment: Segment, offset: int, lines: list[bytes], torn: bytes) -> None:
        """One transaction: the records of these lines, and the checkpoint behind them."""
        records, aside = _parse(lines)
        if torn:
            aside.append(("torn line", torn))
        after = offset + sum(map(len, lines)) + len(lines) + len(torn)
        # Before the commit: killed in between, garbage is kept twice rather than never.
        keep_aside(self._quarantine, segment.name, offset, aside)
        with storing(self._engine) as connection:
            require_schema(connection)
            store(connection, records)
            _move(connection, self._host, segment.name, after)
        self._offsets[segment.name] = after
        self.stored += len(records)
        self.garbage += len(aside)

    def _discard(self, segment: Segment) -> None:
        """File first: killed in between, a checkpoint without a file harms nobody, the reverse would read it again."""
        segment.path.unlink()
        with storing(self._engine) as connection:
            this = (journal_checkpoints.c.host == self._host, journal_checkpoints.c.segment == segment.name)
            connection.execute(journal_checkpoints.delete().where(*this))
        self._offsets.pop(segment.name, None)


def lag(config: Config, engine: Engine) -> Lag:
    """What the journal holds beyond the database, for `doctor`. Raises OSError, SQLAlchemyError."""
    return behind(config, checkpoints(engine, config.host_name))


def behind(config: Config, offsets: dict[str, int]) -> Lag:
    """The same where one knows how far the segments are stored."""
    listed = segments(config.journal_dir)
    unread = [each for each in listed if offsets.get(each.name, 0) < each.size]
    now = time.time()
    oldest = min((_oldest(each, offsets.get(each.name, 0)) for each in unread), default=now)
    count = sum(each.size - offsets.get(each.name, 0) for each in unread)
    return Lag(len(listed), count, max(now - oldest, 0.0), size(quarantine_file(config)))


def _oldest(segment: Segment, offset: int) -> float:
    """When the record at `offset` was made; where that is no record, when the segment was last written to."""
    try:
        return record_time(read(segment, offset, TIME_BYTES))
    except (OSError, MalformedError):
        return segment.modified


def stalled(config: Config, engine: Engine, seconds: float = 1.0) -> list[str]:
    """Names of segments that hold what is not stored, and of which nothing more is stored `seconds` later."""
    before = checkpoints(engine, config.host_name)
    unread = [each.name for each in segments(config.journal_dir) if before.get(each.name, 0) < each.size]
    if not unread:
        return []
    time.sleep(seconds)
    after, left = checkpoints(engine, config.host_name), {each.name for each in segments(config.journal_dir)}
    return [name for name in unread if name in left and after.get(name, 0) <= before.get(name, 0)]


def checkpoints(engine: Engine, host: str) -> dict[str, int]:
    """Segment name → bytes stored, of one host's journal: segments of several may have the same name."""
    table = journal_checkpoints
    query = sa.select(table.c.segment, table.c.offset).where(table.c.host == host)
    with engine.connect() as connection:
        return {row.segment: row.offset for row in connection.execute(query)}


ARGUMENTS = (sys.executable, "-P", "-m", "egress.store.recording.recorder")  # of a recorder process


def config_line(config: Config) -> str:
    """What such a process reads first on its standard input; an argument would show the database's password."""
    return json.dumps(dataclasses.asdict(config), default=str) + "\n"


def parse_config(text: str) -> Config:
    """The config in a `config_line`. Raises InputError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("egress.store.recording.recorder: expected the config as one line of JSON") from None
    return cast(Config, build(Config, document, "recorder config"))


def _parse(lines: list[bytes]) -> tuple[list[Record], list[tuple[str, bytes]]]:
    records: list[Record] = []
    aside: list[tuple[str, bytes]] = []
    for raw in lines:
        try:
            records.append(parse_line(raw))
        except MalformedError as error:
            aside.append((str(error), raw))
    return records, aside


def _adopt(engine: Engine, host: str, directory: Path) -> None:
    """Checkpoints from before hosts were told apart are ours where their segments are; all in a file of one host's."""
    table = journal_checkpoints
    others = table.c.host != host if engine.dialect.name == "sqlite" else table.c.host == ""
    with engine.connect() as connection:
        found = connection.scalars(sa.select(table.c.segment).where(others)).all()
    ours = {each.name for each in segments(directory)}.intersection(found) if found else ()
    for name in ours:
        with storing(engine) as connection:
            # One of ours by that name came when a recorder of our former name still ran: either is true.
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
    """Polls until SIGTERM, then looks once more. While the database fails it says so and keeps trying."""

    def __init__(self, config: Config, *, beats: bool) -> None:
        self._config, self._beats = config, beats
        self._recorder: Recorder | None = None
        self._offsets: dict[str, int] = {}
        self._stored = self._garbage = 0
        self._stopping = False
        self._said, self._beat = -COMPLAIN_SECONDS, 0.0

    def run(self) -> int:
        """Exit code: 0, or 1 if the last look failed (the journal still holds what is missing)."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # our parent starts us with it blocked
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too, but our parent decides when we end
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease (segments.finished) must not end us
        if self._beats:
            os.set_blocking(1, False)
        while not self._stopping:
            self._pass()
            time.sleep(POLL_SECONDS)
        return 0 if self._pass() else 1

    def _stop(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def _pass(self) -> bool:
        try:
            if self._recorder is None:
                self._recorder = Recorder(self._config)
            self._recorder.run_once(math.inf if self._stopping else PASS_SECONDS)
            upkeep = "" if self._stopping else self._recorder.keep_up()  # whatever one segment's trouble is
            trouble = self._recorder.trouble or upkeep
        except (SQLAlchemyError, OSError, EgressError) as error:
            trouble = explain(error) if isinstance(error, DBAPIError) else " ".join(str(error).split())
            self._begin_anew()
        if trouble and (self._stopping or time.monotonic() - self._said >= COMPLAIN_SECONDS):
            self._said = time.monotonic()
            sys.stderr.write(f"egress recorder: {trouble}; records wait in {self._config.journal_dir}\n")
            sys.stderr.flush()
        if self._beats and time.monotonic() - self._beat >= BEAT_SECONDS:
            self._beat = time.monotonic()
            self._tell(trouble)
        return not trouble

    def _begin_anew(self) -> None:
        """A commit may or may not have happened: what is stored is asked of the database again."""
        if self._recorder is None:
            return
        self._stored += self._recorder.stored
        self._garbage += self._recorder.garbage
        self._offsets = self._recorder.offsets()
        self._recorder.close()
        self._recorder = None

    def _tell(self, trouble: str) -> None:
        """One line for the parent, which reads our standard output; it may be busy, or gone."""
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
    """Get SIGTERM when the process that started us ends, however it ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def main(line: str, *, beats: bool = False) -> int:
    """Record until SIGTERM, as a `config_line` says; `beats`: and say each second how far. Returns the exit code."""
    _die_with_parent()
    try:
        config = parse_config(line)
    except InputError as error:
        sys.stderr.write(f"egress recorder: {error}\n")
        return error.exit_code
    return _Process(config, beats=beats).run()


if __name__ == "__main__":
    sys.exit(main(sys.stdin.readline(), beats=BEATS in sys.argv))
