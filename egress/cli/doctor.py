"""`egress doctor`: checks the machine, the configuration, the gateway and the database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from egress.cli.output.tables import as_json, output_option
from egress.cli.output.text import size, when
from egress.config import Config, load_config
from egress.control import Client, NotRunningError
from egress.errors import EgressError
from egress.gateway.kernel import iptables
from egress.gateway.kernel.command import run
from egress.gateway.sandbox import sandbox
from egress.gateway.supervisor import checks
from egress.gateway.supervisor.checks import Check
from egress.store.database.clock import clock
from egress.store.database.database import open_database
from egress.store.database.handles import Connection, SQLAlchemyError
from egress.store.policy import gateways, ruleset
from egress.store.policy.agents import list_agents
from egress.store.policy.gateways import SILENT, UP
from egress.store.recording import evidence, retention, sizes
from egress.store.recording.recorder import lag, stalled

MAX_LAG = 64 * 1024 * 1024  # more unread journal bytes than this mean that the recorder is in trouble
SILENT_SECONDS = 10.0  # the recorder reports each second, except while it waits for the database
MAX_SKEW = 0.5  # seconds between this host's clock and the database's
SNAPSHOT_SECONDS = 60.0  # for so long the snapshot on disk may be older than the policy in force
EXAMPLES = """\b
Examples:
  egress doctor            one line a check; exit code 1 if one fails (root sees more)
  egress doctor -o json    the same, for programs
"""


@click.command("doctor", epilog=EXAMPLES)
@output_option
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
def command(output: str, config_file: Path | None) -> int:
    """Check the machine, the gateway and the database. Some checks need root."""
    config = load_config(config_file)
    found = [*checks.machine(), *_configuration(config)]
    if checks.root().ok:
        found += [*_gateway(config), *_database(config)]
    if output == "json":
        as_json([check._asdict() for check in found])
    else:
        for check in found:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:18} {check.text}")
    return 0 if all(check.ok for check in found) else 1


def _configuration(config: Config) -> list[Check]:
    text = "fail closed: no worker, no traffic"
    if config.fail_open:
        text = "FAIL OPEN: packets pass uninspected while workers are missing or overloaded"
    found = [Check("fail-open", True, text)]
    if config.journal.on_full == "continue":
        text = "ON_FULL CONTINUE: new flows pass unrecorded while records cannot be written"
        found.append(Check("journal.on_full", True, text))
    return found


def _gateway(config: Config) -> list[Check]:
    try:
        with Client(config.control_socket) as client:
            status = client.call("status")
    except NotRunningError as error:
        return [*_unguarded(config, str(error)), *_leftovers(config)]
    except EgressError as error:
        return [Check("gateway", False, str(error))]
    found = [Check("gateway", True, f"running, pid {status['pid']}, policy version {status['policy_version']}")]
    for worker in status["workers"]:
        found += _worker(worker, config.journal.on_full)
    found += [*_policy(status), _snapshot(config, status), _recorder(status["recorder"])]
    if "journal" in status:  # a gateway of an older version may still run
        found.append(_journal(status["journal"]))
    found += _attribution(status) if "attribution" in status else []
    names = ", ".join(agent["name"] for agent in status["agents"]) or "none; attach one with egress agent add"
    found.append(Check("agents", True, names))
    found += [Check(f"agent {name}", False, f"not attached: {why}") for name, why in status["absent"].items()]
    found += _kernel_rules(in_place=status["rules_in_place"] or not status["agents"])
    return found


def _attribution(status: dict[str, Any]) -> list[Check]:
    """Check that the processes behind flows are looked up."""
    said = status["attribution"]
    if not said["enabled"]:
        return [Check("attribution", True, "disabled: no flow's process is looked up")]
    if said["pid"] is None:
        return [Check("attribution", False, f"not running after {said['restarts']} restarts: see the gateway's log")]
    counters = said["counters"]
    dropped = sum(worker["counters"].get("attribution", {}).get("dropped", 0) for worker in status["workers"])
    counts = ", ".join(f"{counters.get(what, 0)} {what}" for what in ("found", "gone", "unknown"))
    spent = f" within {counters['median']} ms" if counters.get("median") is not None else ""
    found = [Check("attribution", True, f"pid {said['pid']}, processes {counts}{spent}, {dropped} flows not looked up")]
    if counters.get("unwritten"):
        text = f"{counters['unwritten']} processes not written while the journal was full"
        found.append(Check("attribution journal", False, text))
    if not counters.get("journal", {}).get("healthy", True):
        found.append(Check("attribution journal", False, f"cannot be written ({counters['journal']['error']})"))
    return found


def _policy(status: dict[str, Any]) -> list[Check]:
    """Check that every worker enforces the newest edits of the policy."""
    database, spent, held = status["database"], status["propagation"], status["holds"]
    text = "followed"
    if not database["ok"]:
        text = f"database lost {_ago(database['since'])} ({database['error']}); the last policy stays in force"
    elif spent["edits"]:
        text += f": edits in force after {spent['median']} ms, {spent['worst']} ms at worst (of {spent['edits']})"
    found = [Check("policy edits", database["ok"], text)]
    others = {worker["policy_version"] for worker in status["workers"] if worker["alive"]} - {status["policy_version"]}
    if others:
        text = (
            f"some workers use version {', '.join(map(str, sorted(others)))}: if this persists, see the gateway's log"
        )
        found.append(Check("policy version", False, text))
    if held["pending"] or held["refused"]:
        text = f"{held['pending']} pending, {held['refused']} refused because approval could not be requested"
        found.append(Check("approvals", True, text))
    return found


def _snapshot(config: Config, status: dict[str, Any]) -> Check:
    """Check that the policy would survive a restart without the database."""
    path, saved, version = config.policy_snapshot, status["snapshot"], status["policy_version"]
    if saved["error"]:
        return Check("policy snapshot", False, f"{path} cannot be written: {saved['error']}")
    if not path.exists():
        return Check("policy snapshot", False, f"{path} is missing: the gateway writes it at the next edit or start")
    if saved["version"] != version and (saved["time"] or 0.0) < time.time() - SNAPSHOT_SECONDS:
        return Check("policy snapshot", False, f"{path} is old: version {saved['version']} instead of {version}")
    return Check("policy snapshot", True, f"version {saved['version']}, written {_ago(saved['time'])}")


def _journal(journal: dict[str, Any]) -> Check:
    """Check that the journal has room for new records."""
    text = f"{journal['bytes']} of at most {journal['max_bytes']} bytes, fsync {journal['fsync']}"
    if journal["healed"]:
        text += f", {journal['healed']} torn ends cut off"
    if journal["lost"]:
        text += f"; {journal['lost']} RECORDS WERE LOST since the gateway started"
    if journal["full"]:
        effect = "new flows are refused" if journal["on_full"] == "refuse" else "new flows pass UNRECORDED"
        text += f"; full since {_ago(journal['since'])}: {effect} until the recorder has caught up (see database)"
    return Check("journal", not (journal["full"] or journal["lost"]), text)


def _recorder(recorder: dict[str, Any]) -> Check:
    text = f"pid {recorder['pid']}, {recorder['restarts']} restarts"
    if "unread" in recorder:
        text += f", {recorder['unread']} bytes and {recorder['seconds']} s behind"
    if recorder.get("silent", 0.0) > SILENT_SECONDS:
        text += f", silent for {recorder['silent']:.0f} s"
    trouble = recorder.get("trouble", "")
    return Check("recorder", recorder["pid"] is not None and not trouble, text + (f": {trouble}" if trouble else ""))


def _ago(moment: float | None) -> str:
    return "never" if moment is None else f"{max(time.time() - moment, 0.0):.0f} s ago"


def _unguarded(config: Config, why: str) -> list[Check]:
    """Check that no agent is unguarded. No gateway is fine if no agent is attached or kernel rules block them all."""
    try:
        database = open_database(config.database_url, create=False)
    except EgressError:
        return [Check("gateway", True, f"not running ({why})")]
    try:
        with database.connect() as connection:
            # A SQLite file belongs to one host, which may have been renamed since they were attached.
            mine = None if database.dialect.name == "sqlite" else config.host_name
            names = ", ".join(stored.agent.name for stored in list_agents(connection, mine))
        cut_off = iptables.installed(config)
    except (EgressError, SQLAlchemyError) as error:
        return [Check("gateway", False, f"not running ({why}), and cannot tell which agents are unguarded: {error}")]
    finally:
        database.dispose()
    if not names or cut_off:
        return [Check("gateway", True, f"not running ({why})")]
    return [Check("gateway", False, f"not running; unguarded: {names}; start it with: egress gateway")]


def _worker(worker: dict[str, Any], on_full: str) -> list[Check]:
    name, counters, dropped = f"worker {worker['index']}", worker["counters"], worker["dropped"]
    if not worker["alive"]:
        return [
            Check(name, False, f"dead, its agents are cut off; {worker['restarts']} restarts; see the gateway's log")
        ]
    packets = counters.get("packets", 0) + counters.get("settled_packets", 0)
    found = [Check(name, True, f"pid {worker['pid']}, {packets} packets, {worker['restarts']} restarts")]
    lost = sum(sum(kind.values()) for kind in dropped.values())
    text = f"{lost} packets dropped by the kernel"
    found.append(Check(f"{name} queue", lost == 0, text + (": more workers, or a larger queue.length" if lost else "")))
    journal = counters.get("journal", {})
    if not journal.get("healthy", True):
        effect = "new flows are refused" if on_full == "refuse" else "new flows pass UNRECORDED"
        found.append(Check(f"{name} journal", False, f"cannot be written ({journal['error']}): {effect}; free space"))
    if counters.get("engine_errors"):
        text = f"{counters['engine_errors']} packets dropped by bugs in egress (see egress query): please report them"
        found.append(Check(f"{name} engine", False, text))
    return found


def _kernel_rules(*, in_place: bool) -> list[Check]:
    text = "in place" if in_place else "not in place: egress gateway installs them again in seconds, see its log"
    found = [Check("kernel rules", in_place, text)]
    for tool in ("iptables", "ip6tables"):
        try:
            policy = run(tool, "-S", "FORWARD").splitlines()[0]
        except (EgressError, IndexError):
            continue
        if policy.endswith("DROP"):
            hint = "policy DROP (Docker sets it): also allow the agents' interfaces there, egress's rules only refuse"
            found.append(Check(f"{tool} FORWARD", True, hint))
    return found


def _leftovers(config: Config) -> list[Check]:
    """Check for kernel rules and sandboxes that a killed gateway left behind."""
    try:
        present, sandboxes = iptables.installed(config), len(sandbox.leftovers(config))
    except EgressError as error:
        return [Check("leftovers", False, str(error))]
    if not present and not sandboxes:
        return [Check("leftovers", True, "none")]
    left = ["kernel rules"] * present + [f"{sandboxes} sandboxes"] * (sandboxes > 0)
    text = f"{' and '.join(left)} of a gateway that was killed, or stopped with on_stop: block"
    wanted = config.on_stop == "block" and not sandboxes
    return [Check("leftovers", wanted, f"{text}: egress gateway takes over when it starts")]


def _database(config: Config) -> list[Check]:
    try:
        database = open_database(config.database_url, create=False)
    except EgressError as error:
        waiting = any(config.journal_dir.glob("*.jsonl"))
        return [Check("database", not (waiting or _exists(config)), str(error))]
    try:
        behind = lag(config, database)
        stuck = stalled(config, database) if behind.unread else []
        with database.connect() as connection:
            others = fleet(connection, config)
            kept = _retention(config, connection)
    except (OSError, SQLAlchemyError) as error:
        return [Check("database", False, f"cannot be read: {' '.join(str(error).split())[:200]}")]
    finally:
        database.dispose()
    text = f"{behind.unread} bytes ({behind.seconds:.0f} s) of the journal not stored yet"
    text += f", {behind.quarantined} bytes quarantined"
    if stuck:
        text += f": {stuck[0]} is not being stored; is the gateway running, its disk full, the database locked?"
    return [Check("database", not stuck and behind.unread < MAX_LAG, text), kept, *others]


def fleet(connection: Connection, config: Config) -> list[Check]:
    """Check the gateways that share the database, the clocks, and agents without a host."""
    now, skew = clock(connection)
    there, newest = gateways.listed(connection), ruleset.current(connection)
    found = []
    if unowned := [each.agent.name for each in list_agents(connection, "")]:
        text = f"agents {', '.join(unowned)} belong to no host: start the upgraded gateway that they are attached to"
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


def _retention(config: Config, connection: Connection) -> Check:
    """Check that records past their retention are pruned, and report the size."""
    bytes_, free = sizes.sizes(connection)
    first = sizes.oldest(connection)
    gone = sum(each.count for each in retention.gone(connection).values())
    text = f"{size(bytes_)}" + (f" ({size(free)} of it free)" if free else "")
    text += f", the oldest flow began {when(first)[:19]}" if first is not None else ", no flow yet"
    text += f"; evidence {size(evidence.held(connection))}; {gone} records pruned so far"
    late = retention.behind(connection, config.retention, time.time())
    if late:
        text += "; some records are long past their retention: is the gateway running? egress db prune deletes them"
    return Check("retention", not late, text)


def _exists(config: Config) -> bool:
    return Path(config.database_url.removeprefix("sqlite:///")).exists()
