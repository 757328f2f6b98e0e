"""The faults that `make chaos` injects: to processes, storage, the network, other programs' rules, and phases.

A function with a trial injects its fault once, and returns when it has done so or, for a passing fault, when it is
over. A function with other parameters returns such a function.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator

from bench.chaos.trial import Fault, Inject, NotDoneError, Trial
from tests.lab.net import eventually

STOPPED = 5.0  # seconds for which a process is stopped, a disk is full, a database is locked
FLUSHES = 5  # one a second
WATCHDOG = 3.0
SWITCHED: dict[str, object] = {"watchdog": WATCHDOG}


def nothing(trial: Trial) -> None:
    """Inject no fault: let the load go on for STOPPED seconds."""
    trial.hold(STOPPED)


# --- processes -------------------------------------------------------------------------------------------------


def killed(kind: str, times: int = 3) -> Inject:
    """Kill all processes of a kind, several times, and wait each time until they are replaced."""

    def inject(trial: Trial) -> None:
        for _ in range(times):
            old = trial.pids(kind)
            trial.kill(kind)
            trial.replaced(kind, old)

    return inject


def one_worker_killed(trial: Trial) -> None:
    """Kill the first worker, three times, and wait each time until it is replaced."""
    for _ in range(3):
        old = trial.pids("workers")
        os.kill(old[0], signal.SIGKILL)
        eventually(lambda old=old: len(trial.pids("workers")) == len(old) and old[0] not in trial.pids("workers"),  # type: ignore[misc]
                   "the worker is replaced", 60.0)  # fmt: skip


def stopped(kind: str) -> Inject:
    """Stop all processes of a kind (SIGSTOP) for STOPPED seconds."""

    def inject(trial: Trial) -> None:
        with paused(trial.pids(kind)):
            trial.hold(STOPPED)

    return inject


def workers_hang(trial: Trial) -> None:
    """Stop all workers (SIGSTOP) until the supervisor has replaced them."""
    old = trial.pids("workers")
    with paused(old):
        trial.replaced("workers", old)


@contextlib.contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Stop processes (SIGSTOP) within the block, and let those that still exist go on at its end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def supervisor_killed(trial: Trial) -> None:
    """Kill the supervisor, and start a gateway 2 s later."""
    trial.stage.stop(signal.SIGKILL)
    trial.hold(2.0)
    trial.start()


def all_killed(trial: Trial) -> None:
    """Kill the workers, the recorder, the attribution process and the supervisor; start a gateway 2 s later."""
    for kind in ("workers", "recorder", "attribution"):
        trial.kill(kind)
    supervisor_killed(trial)


# --- storage ---------------------------------------------------------------------------------------------------


def disk_full(trial: Trial) -> None:
    """Fill the disk of the state directory, keep it full for STOPPED seconds, and free it."""
    filler = trial.stage.config.state_dir / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        end = time.monotonic() + STOPPED
        while time.monotonic() < end:  # the recorder frees segments: take these, too
            with contextlib.suppress(OSError):
                file.write(bytes(4096))
            trial.hold(0.05)
    filler.unlink()


def journal_deleted(trial: Trial) -> None:
    """Delete the journal's directory, and let the load go on for STOPPED seconds."""
    shutil.rmtree(trial.stage.config.journal_dir)
    trial.hold(STOPPED)


def database_file(trial: Trial) -> str:
    """Return the path of the trial's SQLite database."""
    return trial.stage.config.database_url.removeprefix("sqlite:///")


def database_locked(trial: Trial) -> None:
    """Hold SQLite's write lock for STOPPED seconds."""
    with contextlib.closing(sqlite3.connect(database_file(trial), isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 60000")
        connection.execute("BEGIN IMMEDIATE")
        trial.hold(STOPPED)
        connection.execute("ROLLBACK")


def database_killed(trial: Trial) -> None:
    """Kill the PostgreSQL server, and start it STOPPED seconds later."""
    assert trial.server is not None
    trial.server.kill()
    trial.hold(STOPPED)
    trial.server.start()


# --- the network -----------------------------------------------------------------------------------------------


def link(trial: Trial, *words: str) -> None:
    """Run `ip` in the gateway's namespace. Raises NotDoneError."""
    trial.tool("ip", *words)


def interface_deleted(trial: Trial) -> None:
    """Delete the agent's interface, and make it again 1 s later."""
    link(trial, "link", "delete", "agent0")
    trial.hold(1.0)
    trial.stage.lab.veth(trial.stage.agent, "eth0", trial.stage.gateway, "agent0", 1)
    trial.stage.lab.route(trial.stage.agent, via=1)


def interface_renamed(trial: Trial) -> None:
    """Rename the agent's interface on the gateway's side, and rename it back 2 s later."""
    for old, new in (("agent0", "other0"), ("other0", "agent0")):
        link(trial, "link", "set", old, "down")
        link(trial, "link", "set", old, "name", new)
        link(trial, "link", "set", new, "up")
        link(trial, "address", "replace", "fd99:1::1/64", "dev", new, "nodad")
        trial.hold(2.0)


def second_interface(trial: Trial) -> None:
    """Give the agent's namespace another way out, as `docker network connect` does, and send through it.

    It is removed after STOPPED seconds.
    """
    stage = trial.stage
    stage.lab.veth(stage.agent, "eth1", stage.gateway, "second0", 4)
    for words in (("route", "replace", "10.99.2.2", "via", "10.99.4.1"),
                  ("-6", "route", "replace", "fd99:2::2", "via", "fd99:4::1")):  # fmt: skip
        stage.lab.run(stage.agent, ["ip", *words], check=True)
    trial.hold(STOPPED)
    link(trial, "link", "delete", "second0")
    stage.lab.run(stage.agent, ["ip", "-6", "route", "flush", "fd99:2::2"])


def conntrack_flushed(trial: Trial) -> None:
    """Flush the kernel's connection table FLUSHES times, every half second."""
    for _ in range(FLUSHES):
        trial.tool("conntrack", "-F")
        trial.hold(0.5)


# --- rules of other programs -----------------------------------------------------------------------------------


def both(trial: Trial, *words: str) -> None:
    """Run `iptables` and `ip6tables` with these words in the gateway's namespace. Raises NotDoneError."""
    for tool in ("iptables", "ip6tables"):
        trial.tool(tool, "-w", *words)


def flushed(table: str, times: int = 1) -> Inject:
    """Flush a table of iptables `times` times, once a second; after more than one call `Trial.resume`."""

    def inject(trial: Trial) -> None:
        for _ in range(times):
            both(trial, "-t", table, "-F")
            trial.hold(1.0)
        trial.hold(2.0)
        if times > 1:
            trial.resume()

    return inject


def all_tables_flushed(trial: Trial) -> None:
    """Flush the tables mangle, filter, nat and raw, and delete their chains."""
    for table in ("mangle", "filter", "nat", "raw"):
        both(trial, "-t", table, "-F")
        with contextlib.suppress(NotDoneError):  # a chain of egress that a rule refers to stays
            both(trial, "-t", table, "-X")
    trial.hold(4.0)


def ruleset_flushed(trial: Trial) -> None:
    """Delete all rules of nftables once."""
    trial.tool("nft", "flush", "ruleset")
    trial.hold(4.0)


def ruleset_flushed_often(trial: Trial) -> None:
    """Delete all rules of nftables FLUSHES times, once a second; then call `Trial.resume`."""
    for _ in range(FLUSHES):
        trial.tool("nft", "flush", "ruleset")
        trial.hold(1.0)
    trial.resume()


def accept_before_ours(table: str) -> Inject:
    """Put an ACCEPT before the rules of egress in a table's FORWARD chain, and remove it 4 s later."""

    def inject(trial: Trial) -> None:
        both(trial, "-t", table, "-I", "FORWARD", "-j", "ACCEPT")
        trial.hold(4.0)
        both(trial, "-t", table, "-D", "FORWARD", "-j", "ACCEPT")

    return inject


def accept_again_and_again(trial: Trial) -> None:
    """Put an ACCEPT before the rules of egress four times a second; then remove it and call `Trial.resume`."""
    for _ in range(4 * FLUSHES):
        both(trial, "-t", "mangle", "-I", "FORWARD", "-j", "ACCEPT")
        trial.hold(0.25)
    both(trial, "-t", "mangle", "-F", "FORWARD")
    trial.resume()


def nft_accept_early(trial: Trial) -> None:
    """Add a chain of nftables that accepts at priority -400, and delete it 4 s later."""
    trial.tool("nft", "add table inet early; add chain inet early forward { type filter hook forward priority -400; };"
               " add rule inet early forward accept")  # fmt: skip
    trial.hold(4.0)
    trial.tool("nft", "delete table inet early")


def marks_cleared(trial: Trial) -> None:
    """Clear the bits of Calico's default mask in packets' marks for 4 s, before the rules of egress in filter."""
    both(trial, "-I", "FORWARD", "-j", "MARK", "--set-xmark", "0/0xffff0000")
    trial.hold(4.0)
    both(trial, "-D", "FORWARD", "-j", "MARK", "--set-xmark", "0/0xffff0000")


def supervisor_stopped_and(act: Callable[[Trial], None]) -> Inject:
    """Stop the supervisor (SIGSTOP), inject another fault, and let the supervisor go on STOPPED seconds later."""

    def inject(trial: Trial) -> None:
        with paused(trial.pids("supervisor")):
            act(trial)
            trial.hold(STOPPED)

    return inject


# --- phases ----------------------------------------------------------------------------------------------------


def boot(trial: Trial) -> None:
    """Lose processes and kernel rules as in a reboot, block as the unit does at boot, and start 2 s later."""
    trial.stage.stop(signal.SIGKILL)
    trial.tool("nft", "flush", "ruleset")
    trial.stage.egress("block", "--boot")
    trial.guarded_from_now()
    trial.hold(2.0)
    trial.start()


def stop_and_start(trial: Trial) -> None:
    """Stop the gateway in order, and start it 2 s later."""
    trial.stage.stop()
    trial.hold(2.0)
    trial.start()


def opened(trial: Trial) -> None:
    """Stop the gateway in order, and open the way for the agents with `egress open`."""
    trial.stage.stop()
    trial.stage.egress("open", "--yes")
    trial.guarded_from_now()
    trial.hold(2.0)


def attach(trial: Trial) -> None:
    """Attach the agent; what it sent before is not counted."""
    trial.stage.attach()
    trial.guarded_from_now()
    trial.hold(2.0)


def attach_again(trial: Trial) -> None:
    """Change the labels of the attached agent."""
    trial.stage.egress("agent", "set", "rome-7", "--label", "chaos")
    trial.hold(1.0)


def broken_policy(trial: Trial) -> None:
    """Reload the gateway with a policy file that is not valid, and 2 s later with the right one."""
    before = trial.stage.policy_file.read_text()
    trial.stage.policy_file.write_text("rules: [")
    trial.kill("supervisor", signal.SIGHUP)
    trial.hold(2.0)
    trial.stage.policy_file.write_text(before)
    trial.kill("supervisor", signal.SIGHUP)


PROCESSES, STORAGE, NETWORK = "Processes", "Storage", "Network"
RULES, PHASES = "Rules of other programs", "Phases"
CONTROL = Fault("no gateway at all (control)", "Controls", nothing, running=False, open=True)
NONE = Fault("no fault (control)", "Controls", nothing)
WORKER_KILLED = Fault("a worker is killed, three times", PROCESSES, one_worker_killed)
FAULTS = (
    CONTROL,
    NONE,
    WORKER_KILLED,
    Fault("all workers are killed, twice", PROCESSES, killed("workers", 2)),
    Fault("the recorder is killed, three times", PROCESSES, killed("recorder")),
    Fault("the attribution process is killed, three times", PROCESSES, killed("attribution")),
    Fault("the supervisor is killed; 2 s later a new one starts", PROCESSES, supervisor_killed),
    Fault("every process is killed; 2 s later a new gateway starts", PROCESSES, all_killed),
    Fault("all workers are stopped (SIGSTOP) until they are replaced", PROCESSES, workers_hang, SWITCHED),
    Fault("the recorder is stopped for 5 s", PROCESSES, stopped("recorder")),
    Fault("the attribution process is stopped for 5 s", PROCESSES, stopped("attribution")),
    Fault("the supervisor is stopped for 5 s", PROCESSES, stopped("supervisor")),
    Fault("the disk is full for 5 s", STORAGE, disk_full),
    Fault("the journal's directory is deleted", STORAGE, journal_deleted),
    Fault("SQLite's write lock is held for 5 s", STORAGE, database_locked),
    Fault("PostgreSQL is killed; 5 s later it starts again", STORAGE, database_killed, postgresql=True),
    Fault("the agent's interface is deleted and made again", NETWORK, interface_deleted),
    Fault("the agent's interface is renamed, and renamed back", NETWORK, interface_renamed),
    Fault("a second interface leads into the agent's namespace for 5 s", NETWORK, second_interface),
    Fault("the connection table is flushed, five times", NETWORK, conntrack_flushed),
    Fault("table mangle is flushed", RULES, flushed("mangle")),
    Fault("table mangle is flushed once a second, five times", RULES, flushed("mangle", FLUSHES)),
    Fault("table filter is flushed", RULES, flushed("filter")),
    Fault("all tables are flushed and their chains deleted", RULES, all_tables_flushed),
    Fault("nft flush ruleset", RULES, ruleset_flushed),
    Fault("nft flush ruleset once a second, five times", RULES, ruleset_flushed_often),
    Fault("ACCEPT before our rules in mangle FORWARD, for 4 s", RULES, accept_before_ours("mangle")),
    Fault("the same, inserted again four times a second for 5 s", RULES, accept_again_and_again),
    Fault("ACCEPT before our rules in filter FORWARD, for 4 s", RULES, accept_before_ours("filter")),
    Fault("nft accept at priority -400, for 4 s", RULES, nft_accept_early),
    Fault("another program clears the upper 16 bits of marks, for 4 s", RULES, marks_cleared),
    Fault(
        "the supervisor is stopped for 5 s, table mangle is flushed", RULES, supervisor_stopped_and(flushed("mangle"))
    ),
    Fault("the supervisor is stopped for 5 s, nft flush ruleset", RULES, supervisor_stopped_and(ruleset_flushed)),
    Fault("a boot: egress block --boot, 2 s later the gateway starts", PHASES, boot),
    Fault("stopped in order, 2 s later started", PHASES, stop_and_start),
    Fault("stopped in order, and egress open (opened by a person)", PHASES, opened, open=True),
    Fault("an agent is attached (counted from the command's return)", PHASES, attach, attached=False),
    Fault("an attached agent is changed", PHASES, attach_again),
    Fault("reloaded with a broken policy file, then with the right one", PHASES, broken_policy),
)
