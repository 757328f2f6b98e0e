"""Turn notes (messages about new flows) into records of the processes that opened the flows.

The flow's socket is looked up in the agent's namespace when the note comes, since sockets disappear first. Then the
process that holds the socket is searched in /proc. The agents' searches take turns of SLICE seconds: an agent with
thousands of processes delays its own searches only.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from egress.gateway.attribution import diag, tables
from egress.gateway.attribution.cgroups import container, group
from egress.gateway.attribution.cmdline import CommandLines
from egress.gateway.attribution.namespaces import Identity, Namespaces, UnknownNamespaceError
from egress.gateway.attribution.proc import Process, look
from egress.gateway.attribution.search import RECENT, HeldSocket, Search
from egress.gateway.pipe.note import Note
from egress.model import protocol_name
from egress.records.shape import ProcessRecord, ProcessStatus

SLICE = 0.002  # seconds (processor time, except where noted) of one agent's search before the next turn
BUDGET = 0.05  # seconds that a search may take in all
REST = 0.45  # seconds by the clock without a search for an agent, after one that took all of BUDGET
EVERYWHERE = 1.0  # seconds by the clock between two searches beyond the agent's namespace
LOOKING = 0.3  # seconds, of each second, for finding the sockets of one agent's flows
LATE = 5.0  # seconds after which a note is too old: another flow may have its ports
MAX_WAITING = 1024  # flows of an agent whose sockets are known and whose processes are to be searched
MAX_AGENTS = 4096  # remembered

FOUND, GONE, UNKNOWN = ProcessStatus.FOUND, ProcessStatus.GONE, ProcessStatus.UNKNOWN
NO_SOCKET = "no socket of this flow was left, or it never had one (crafted or forwarded by the agent)"


@dataclass(slots=True)
class _Agent:
    """The state of the searches for one agent."""

    recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    waiting: dict[Identity, dict[int, list[tuple[Note, int]]]] = field(default_factory=dict)  # inode → notes, uid
    count: int = 0  # of notes in `waiting`
    wanted: dict[int, list[tuple[Note, int]]] = field(default_factory=dict)  # of the search under way
    search: Search | None = None
    steps: Iterator[HeldSocket | None] = field(default_factory=lambda: iter(()))
    spent: float = 0.0
    rests: float = 0.0  # until when no search runs for it (monotonic)
    stays: float = 0.0  # until when searches stay in its namespace
    second: int = 0  # of the clock, for `looked`
    looked: float = 0.0  # time for finding sockets in that second (LOOKING)


class Finder:
    """Finds the processes behind flows. Call `take` with each note, then `work` while `busy`; both give records."""

    def __init__(self) -> None:
        self._namespaces = Namespaces()
        self._command_lines = CommandLines()
        self._agents: dict[str, _Agent] = {}
        self._turns: deque[str] = deque()  # agents with something to search for

    @property
    def busy(self) -> bool:
        """True while there are processes to search for."""
        return bool(self._turns)

    @property
    def unread(self) -> int:
        """The number of command lines that were not read in time, or not tried as earlier reads were delayed."""
        return self._command_lines.refused

    def close(self) -> None:
        self._namespaces.close()
        self._command_lines.close()

    def take(self, note: Note, now: float) -> ProcessRecord | None:
        """Look up the socket of a note's flow; `now` is in seconds since the epoch.

        Returns None if the socket was found: `work` then searches for its process. Else returns the record of the
        failure.
        """
        if not -LATE < now - note.time < LATE:
            return failed(note, UNKNOWN, f"its note came {now - note.time:.0f} s late")
        agent = self._agent(note.agent)
        if agent.second != int(now):
            agent.second, agent.looked = int(now), 0.0
        if agent.looked > LOOKING:
            return failed(note, UNKNOWN, "finding the sockets of this agent's flows took too long")
        began = time.thread_time()
        try:
            return self._take(note, agent)
        finally:
            agent.looked += time.thread_time() - began

    def _take(self, note: Note, agent: _Agent) -> ProcessRecord | None:
        try:
            with closing(self._namespaces.behind(note.interface, note.local)) as place:
                if diag.askable(note.proto):
                    found = diag.ask(place.diag, note, place.device)
                else:
                    with self._namespaces.inside(place):
                        found = tables.ask(note)
                identity = place.identity
        except UnknownNamespaceError as why:
            return failed(note, UNKNOWN, str(why))
        except tables.AmbiguousSocketError:
            return failed(note, UNKNOWN, f"more than one raw socket of {protocol_name(note.proto)} could have sent it")
        except OSError as error:
            return failed(note, UNKNOWN, f"the kernel does not answer: {error.strerror or error}")
        if found is None or (found.state == diag.LISTEN and not note.inbound):
            return failed(note, GONE, NO_SOCKET)
        if not found.inode:
            return failed(note, GONE, "its socket was closed already", found.uid)
        return self._want(note, agent, identity, found)

    def work(self, until: float) -> Iterator[ProcessRecord]:
        """Give each agent's search one turn, and start no further turn after `until` (monotonic seconds).

        Yields the records of flows whose search has ended, found or not. It works only while it is iterated.
        """
        for _ in range(len(self._turns)):
            name = self._turns.popleft()
            agent = self._agents[name]
            yield from self._turn(name, agent)
            if agent.search is not None or agent.waiting:
                self._turns.append(name)
            if time.monotonic() >= until:
                return

    def _agent(self, name: str) -> _Agent:
        agent = self._agents.get(name)
        if agent is None:
            self._forget()
            agent = self._agents[name] = _Agent()
        return agent

    def _want(self, note: Note, agent: _Agent, identity: Identity, found: diag.Socket) -> ProcessRecord | None:
        """Put a socket on the list of those to search for. Returns the record of the failure if that is not allowed."""
        if agent.rests > time.monotonic():
            return failed(
                note, UNKNOWN, "the agent has so many processes or descriptors that not all are searched", found.uid
            )
        if agent.count >= MAX_WAITING:
            return failed(note, UNKNOWN, "too many flows of this agent wait to be searched for", found.uid)
        if agent.search is None and not agent.waiting:
            self._turns.append(note.agent)
        agent.count += 1
        agent.waiting.setdefault(identity, {}).setdefault(found.inode, []).append((note, found.uid))
        return None

    def _forget(self) -> None:
        """Once MAX_AGENTS are remembered, forget those without a search. Their time limits then start from zero."""
        if len(self._agents) >= MAX_AGENTS:
            busy = set(self._turns)
            self._agents = {name: agent for name, agent in self._agents.items() if name in busy}

    def _turn(self, name: str, agent: _Agent) -> Iterator[ProcessRecord]:
        """Go on with an agent's search for SLICE seconds, starting one if none is under way."""
        if agent.search is None:
            identity, agent.wanted = agent.waiting.popitem()
            agent.count -= sum(map(len, agent.wanted.values()))
            read = functools.partial(look, command_line=functools.partial(self._command_lines.begin, name))
            everywhere = agent.stays < time.monotonic()
            agent.search = Search(identity, set(agent.wanted), agent.recent, read, everywhere=everywhere)
            agent.steps, agent.spent = agent.search.steps(), 0.0
        began = time.thread_time()
        out_of_time = False
        for held in agent.steps:
            if held is not None:
                yield from (_record(note, held.process) for note, _ in agent.wanted.pop(held.inode))
            spent = time.thread_time() - began
            out_of_time = agent.spent + spent > BUDGET
            if out_of_time:
                break
            if spent > SLICE:
                agent.spent += spent
                return
        yield from self._given_up(agent, agent.search, out_of_time=out_of_time)

    def _given_up(self, agent: _Agent, search: Search, *, out_of_time: bool) -> Iterator[ProcessRecord]:
        """End a search; yield a record for each socket that is still wanted: its process was not found.

        `out_of_time`: the search ended before all processes were read, and the agent's next search has to wait.
        """
        now = time.monotonic()
        if search.abroad:
            agent.stays = now + EVERYWHERE
        elif out_of_time:
            agent.rests = now + REST
        for note, uid in (each for notes in agent.wanted.values() for each in notes):
            if out_of_time:
                why = f"not among the first {search.seen} processes; there was no time for more"
                yield failed(note, UNKNOWN, why, uid)
            else:
                yield failed(note, GONE, "no process had its socket open any more", uid)
        agent.search, agent.wanted, agent.steps = None, {}, iter(())


def failed(note: Note, status: ProcessStatus, reason: str, uid: int | None = None) -> ProcessRecord:
    """Make the record of a flow whose process was not found. `uid`: the owner of its socket, if that was found."""
    return ProcessRecord(note.flow_id, note.agent, note.time, status, reason, 0, 0, uid, "", "", "", "", "", None)


def _record(note: Note, process: Process) -> ProcessRecord:
    path = group(process.cgroup)
    runtime, name = container(path)
    ended = process.started is None or not process.exe
    reason = "it ended while it was looked at" if ended else ""
    if process.cmdline is None:
        reason = "its command line could not be read in time"
    return ProcessRecord(
        flow_id=note.flow_id,
        agent=note.agent,
        time=note.time,
        status=GONE if ended else FOUND,
        reason=reason,
        pid=process.pid,
        inner_pid=process.inner_pid,
        uid=process.uid,
        exe=process.exe,
        cmdline=process.cmdline or "",
        cgroup=path,
        runtime=runtime,
        container=name,
        started=process.started,
    )
