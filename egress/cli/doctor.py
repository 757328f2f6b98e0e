"""`egress doctor`: checks the machine, the configuration, the gateway and the database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from egress.cli.output import running
from egress.cli.output.tables import as_json, output_option
from egress.cli.output.text import size, when
from egress.config import Config, load_config
from egress.control import Client, NotRunningError
from egress.errors import EgressError
from egress.gateway.kernel import guard, privileges
from egress.gateway.sandbox import sandbox
from egress.gateway.supervisor import checks, guardchecks, rest
from egress.gateway.supervisor import snapshot as snapshots
from egress.gateway.supervisor.checks import Check
from egress.store.database.clock import clock
from egress.store.database.database import open_database, schema
from egress.store.database.handles import Connection, Engine, SQLAlchemyError
from egress.store.policy import audit, gateways, ruleset
from egress.store.policy.agents import list_agents
from egress.store.policy.gateways import SILENT, UP
from egress.store.recording import evidence, retention, sizes
from egress.store.recording.recorder import lag, stalled

MAX_LAG = 64 * 1024 * 1024  # journal bytes not stored yet; with more the recorder is in trouble
SILENT_SECONDS = 10.0  # since the recorder's last report; it reports each second unless it waits for the database
MAX_SKEW = 0.5  # seconds between this host's clock and the database's
SNAPSHOT_SECONDS = 60.0  # since an edit; by then the snapshot on disk must contain it
EXAMPLES = """\b
Examples:
  egress doctor            one line per check; exit code 1 if one fails; some checks need root
  egress doctor -o json    the same, for programs
"""


@click.command("doctor", epilog=EXAMPLES)
@output_option
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
def command(output: str, config_file: Path | None) -> int:
    """Check the machine, the gateway and the database. Some checks need root.

    Exit code 1: a check failed.
    """
    config = load_config(config_file)
    found = [*checks.machine(), *_configuration(config)]
    if checks.root().ok:
        found += [*_gateway(config), guardchecks.marks(config), *_database(config)]
    if output == "json":
        as_json([check._asdict() for check in found])
    else:
        for check in found:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:18} {check.text}")
    return 0 if all(check.ok for check in found) else 1


def _accounts(config: Config) -> Check:
    """Return a passed check that names the users as which the processes without privileges run."""
    worker, attribution = privileges.users(config.user, config.attribution_user)
    text = f"workers: {worker}, attribution: {attribution}"
    if worker == attribution:
        text += "; accounts of their own are better, packaging/egress.sysusers makes them"
    return Check("accounts", True, text)


def _configuration(config: Config) -> list[Check]:
    """Return passed checks that report the accounts, and settings that let packets pass uninspected or unrecorded."""
    text = "fail closed: no worker, no traffic"
    if config.fail_open:
        text = "FAIL OPEN: packets pass uninspected while workers are missing or overloaded"
    found = [Check("fail-open", True, text), _accounts(config)]
    if config.journal.on_full == "continue":
        text = "ON_FULL CONTINUE: new flows pass unrecorded while records cannot be written"
        found.append(Check("journal.on_full", True, text))
    return found


def _gateway(config: Config) -> list[Check]:
    """Check the running gateway by its status; while none runs, that no agent is unguarded and nothing is left over."""
    try:
        with Client(config.control_socket) as client:
            status = client.call("status")
    except NotRunningError as error:
        return [*_unguarded(config, str(error)), *_leftovers(config)]
    except EgressError as error:
        return [Check("gateway", False, str(error))]
    found = [Check("gateway", True, f"running, pid {status['pid']}, policy version {status['policy_version']}")]
    for worker in status["workers"]:
        found += running.worker(worker, config.journal.on_full)
    found += [*_policy(status), _snapshot(config, status), _recorder(status["recorder"])]
    if "journal" in status:  # a gateway of an older version may still run
        found.append(_journal(status["journal"]))
    found += running.attribution(status) if "attribution" in status else []
    found += running.folded(status["workers"])
    names = ", ".join(agent["name"] for agent in status["agents"]) or "none; attach one with egress agent add"
    found.append(Check("agents", True, names))
    found += [check for agent in status["agents"] for check in guardchecks.ways(agent)]
    found += [Check(f"agent {name}", False, f"not attached: {why}") for name, why in status["absent"].items()]
    found += running.kernel_rules(status)
    found += running.drops(status["agents"])
    return found


def _policy(status: dict[str, Any]) -> list[Check]:
    """Check that the gateway reads edits from the database, and that every worker enforces the policy in force."""
    database, spent, held = status["database"], status["propagation"], status["holds"]
    text = "the policy is up to date with the database"
    if not database["ok"]:
        text = f"database lost {_ago(database['since'])} ({database['error']}); the last policy stays in force"
    elif spent["edits"]:
        text += f"; edits in force after {spent['median']} ms, {spent['worst']} ms at worst (of {spent['edits']})"
    found = [Check("policy edits", database["ok"], text)]
    others = {worker["policy_version"] for worker in status["workers"] if worker["alive"]} - {status["policy_version"]}
    if others:
        text = (
            f"some workers enforce version {', '.join(map(str, sorted(others)))}: if this lasts, see the gateway's log"
        )
        found.append(Check("policy version", False, text))
    if held["pending"] or held["refused"]:
        text = f"{held['pending']} pending, {held['refused']} refused because approval could not be requested"
        found.append(Check("approvals", True, text))
    return found


def _snapshot(config: Config, status: dict[str, Any]) -> Check:
    """Check that the snapshot on disk contains the policy in force, for a restart without the database."""
    path, saved, version = config.policy_snapshot, status["snapshot"], status["policy_version"]
    if saved["error"]:
        return Check("policy snapshot", False, f"{path} cannot be written: {saved['error']}")
    if not path.exists():
        return Check(
            "policy snapshot", False, f"{path} is missing: the gateway writes it again within seconds, or logs why not"
        )
    # A gateway of an older version reports only the time of the last write.
    since = saved.get("unsaved_since", (saved["time"] or 0.0) if saved["version"] != version else None)
    if since is not None and since < time.time() - SNAPSHOT_SECONDS:
        text = f"{path} lacks edits made {_ago(since)}: it has version {saved['version']}, {version} is in force"
        return Check("policy snapshot", False, f"{text}; see the gateway's log")
    return Check("policy snapshot", True, f"version {saved['version']}, written {_ago(saved['time'])}")


def _journal(journal: dict[str, Any]) -> Check:
    """Check that the journal has room for new records, that nobody changed its directory, and that none were lost."""
    text = f"{journal['bytes']} of at most {journal['max_bytes']} bytes, fsync {journal['fsync']}"
    if journal["healed"]:
        text += f", {journal['healed']} torn ends cut off"
    if journal.get("restored"):
        text += (
            f"; ITS DIRECTORY WAS DELETED OR CHANGED {journal['restored']} times, last {_ago(journal['restored_at'])}"
        )
        text += " (made again): egress verify lists what may be missing"
    if journal["lost"]:
        text += f"; {journal['lost']} RECORDS WERE LOST since the gateway started"
    if journal["full"]:
        effect = "new flows are refused" if journal["on_full"] == "refuse" else "new flows pass UNRECORDED"
        text += f"; full for {_span(journal['since'])}: {effect} until the recorder has caught up (see database)"
    return Check("journal", not (journal["full"] or journal["lost"] or journal.get("restored")), text)


def _recorder(recorder: dict[str, Any]) -> Check:
    """Check that the recorder, which stores the journal in the database, runs and has no trouble."""
    text = f"pid {recorder['pid']}, {recorder['restarts']} restarts"
    if "unread" in recorder:
        text += f", {recorder['unread']} bytes and {recorder['seconds']} s behind"
    if recorder.get("silent", 0.0) > SILENT_SECONDS:
        text += f", silent for {recorder['silent']:.0f} s"
    trouble = recorder.get("trouble", "")
    return Check("recorder", recorder["pid"] is not None and not trouble, text + (f": {trouble}" if trouble else ""))


def _ago(moment: float | None) -> str:
    return "never" if moment is None else f"{_span(moment)} ago"


def _span(moment: float) -> str:
    return f"{max(time.time() - moment, 0.0):.0f} s"


def _unguarded(config: Config, why: str) -> list[Check]:
    """Check that no agent is unguarded while no gateway runs: none is attached, or kernel rules block them all."""
    try:
        database = _open_existing(config)
    except EgressError as error:
        return [_cannot_tell(why, error)]
    if database is None:
        return [Check("gateway", True, f"not running ({why})")]
    try:
        with database.connect() as connection:
            # A SQLite file belongs to one host, which may have been renamed since they were attached.
            mine = None if database.dialect.name == "sqlite" else config.host_name
            interfaces, unknown = rest.places(config, list_agents(connection, mine))
        there, note = guard.state(), rest.opened(config)
        covered = there.interfaces | there.behind
        free = dict.fromkeys(agent for name, agents in interfaces.items() if name not in covered for agent in agents)
        names = ", ".join([*free, *unknown])
    except (EgressError, SQLAlchemyError) as error:
        return [_cannot_tell(why, error)]
    finally:
        database.dispose()
    if note is not None and names:
        text = f"OPENED by {note.actor} {_ago(note.at)}: unguarded: {names}; egress block, or a start, ends it"
        return [Check("gateway", False, text)]
    if not names:
        return [Check("gateway", True, f"not running ({why})")]
    return [Check("gateway", False, f"not running; unguarded: {names}; start it with: egress gateway")]


def _cannot_tell(why: str, error: Exception) -> Check:
    cause = " ".join(str(error).split())[:200]
    return Check("gateway", False, f"not running ({why}), and cannot tell which agents are unguarded: {cause}")


def _leftovers(config: Config) -> list[Check]:
    """Check that no earlier gateway left kernel rules or sandboxes; rules may stay after `on_stop: block`."""
    try:
        there, sandboxes = guard.state(), len(sandbox.leftovers(config))
        present = bool(there.interfaces or there.behind)
    except EgressError as error:
        return [Check("leftovers", False, str(error))]
    if not present and not sandboxes:
        return [Check("leftovers", True, "none")]
    left = ["kernel rules"] * present + [f"{sandboxes} sandboxes"] * (sandboxes > 0)
    text = f"{' and '.join(left)} of a gateway that was killed, or stopped with on_stop: block"
    wanted = config.on_stop == "block" and not sandboxes
    return [Check("leftovers", wanted, f"{text}: egress gateway takes over when it starts")]


def _database(config: Config) -> list[Check]:
    """Check that the database can be read, that the journal is being stored, and that old records are pruned."""
    try:
        database = _open_existing(config)
    except EgressError as error:
        return [Check("database", False, str(error))]
    if database is None:
        return [Check("database", True, "none yet: `egress gateway` creates it")]
    try:
        behind = lag(config, database)
        stuck = stalled(config, database) if behind.unread else []
        with database.connect() as connection:
            others = fleet(connection, config)
            kept = _retention(config, connection)
            trail = _trail(config, connection)
    except (OSError, SQLAlchemyError) as error:
        return [Check("database", False, f"cannot be read: {' '.join(str(error).split())[:200]}")]
    finally:
        database.dispose()
    text = f"{behind.unread} bytes ({behind.seconds:.0f} s) of the journal not stored yet"
    text += f", {behind.quarantined} bytes quarantined"
    if stuck:
        text += f": {stuck[0]} is not being stored; is the gateway running, its disk full, the database locked?"
    return [Check("database", not stuck and behind.unread < MAX_LAG, text), kept, trail, *others]


def fleet(connection: Connection, config: Config) -> list[Check]:
    """Check that every agent has a host, no gateway is silent, and this host's clock agrees with the database's."""
    now, skew = clock(connection)
    there, newest = gateways.listed(connection), ruleset.current(connection)
    found = []
    if unowned := [each.agent.name for each in list_agents(connection, "")]:
        text = f"agents {', '.join(unowned)} belong to no host: upgrade and start the gateway that they are attached to"
        found.append(Check("fleet agents", False, text))
    if len(there) > 1:
        silent = [each.host for each in there if each.state(now) == SILENT]
        behind = [each.host for each in there if each.state(now) == UP and each.policy_version < newest]
        text = f"{len(there)} gateways, this one is {config.host_name}"
        text += f"; behind policy version {newest}: {', '.join(behind)}" if behind else ""
        text += f"; silent: {', '.join(silent)}, see egress fleet" if silent else ""
        found.append(Check("fleet", not silent, text))
    if abs(skew) > MAX_SKEW:
        text = f"this host's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the database's"
        found.append(Check("clock", False, f"{text}: records of several hosts are in the wrong order; sync the clocks"))
    return found


def _trail(config: Config, connection: Connection) -> Check:
    """Check that the audit trail still has the entry that this host's gateway saw last; pass if none is known."""
    newest = audit.latest(connection)
    try:
        known = snapshots.read(config.policy_snapshot)
    except EgressError as error:
        return Check("audit trail", True, f"{newest} entries, not compared: {error}")
    if known is None or not known.head:
        return Check("audit trail", True, f"{newest} entries; no gateway of this version has noted one here yet")
    source = f" in {config.policy_snapshot}"
    lost = audit.lacks(connection, audit.Anchor(known.head, known.audit, source))
    if lost:
        hint = "egress audit verify --snapshot, and the gateway's log, which has the head of each edit"
        return Check("audit trail", False, f"{lost}: somebody changed the database; see {hint}")
    return Check("audit trail", True, f"{newest} entries, with entry {known.audit} that the gateway saw last")


def _retention(config: Config, connection: Connection) -> Check:
    """Check that records past their retention are pruned; report the size and age of the records."""
    bytes_, free = sizes.sizes(connection)
    first = sizes.oldest(connection)
    gone = sum(each.count for each in retention.gone(connection).values())
    text = f"{size(bytes_)}" + (f" ({size(free)} of it free)" if free else "")
    text += f", the oldest flow began {when(first)[:19]}" if first is not None else ", no flow yet"
    text += f"; evidence {size(evidence.held(connection))}; {gone} records pruned so far"
    late = retention.behind(connection, config.retention, clock(connection)[0])
    if late:
        text += "; some records are long past their retention: is the gateway running? egress db prune deletes them"
    return Check("retention", not late, text)


def _open_existing(config: Config) -> Engine | None:
    """Open the database; None if there is none and no gateway has run here. Raises EgressError if it cannot be used."""
    found = schema(config.database_url)
    if found.revision:
        return open_database(config.database_url, create=False, migrate=False)
    if config.policy_snapshot.exists() or any(config.journal_dir.glob("*.jsonl")):
        raise EgressError(f"the database {found.name} is missing, but a gateway has run here: put it back")
    return None
