"""Metrics for Prometheus: the status of this host's gateway, all gateways of the database, the policy, the records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from egress.control import Client
from egress.errors import EgressError
from egress.store.database.clock import clock
from egress.store.database.handles import Connection, Engine, SQLAlchemyError
from egress.store.policy import agents, approvals, audit, gateways, ruleset
from egress.store.policy.gateways import UP, StoredGateway
from egress.store.recording import evidence, retention, sizes

ANSWER_SECONDS = 5.0  # that the gateway has to answer


class Metrics(Collector):
    """Collects the metrics of one scrape. Names begin with egress_.

    The label `worker` is an index, `queue` is full or settled. `control` is the gateway's control socket. Without an
    engine (None) the metrics of the database are left out. `steps` has the number of reported steps by result.
    """

    def __init__(self, control: Path, engine: Engine | None, steps: Mapping[str, int]) -> None:
        self._control, self._engine, self._steps = control, engine, steps

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the database and of the gateway; leave out those that cannot be read now."""
        with contextlib.suppress(SQLAlchemyError):  # unavailable: egress_database_up reports that
            if self._engine is not None:
                yield from _stored(self._engine)
        reported = CounterMetricFamily("egress_steps", "steps that frameworks reported, by result", labels=["what"])
        for what, count in self._steps.items():
            reported.add_metric([what], count)
        yield reported
        try:
            with Client(self._control, ANSWER_SECONDS) as client:
                status = client.call("status")
        except EgressError:
            yield _gauge("up", "1: a gateway runs on this host and answers", 0)
            return
        yield _gauge("up", "1: a gateway runs on this host and answers", 1)
        yield from _gateway(status)
        yield from _replies(status)
        yield from _attribution(status)
        yield from _workers(status["workers"])
        yield from _drops(status["agents"])


def _stored(engine: Engine) -> Iterator[Metric]:
    """Collect the metrics that are read from the database."""
    with engine.connect() as connection:
        yield _gauge("policy_version_stored", "newest version of the policy", ruleset.current(connection))
        yield _gauge("rules", "rules in force", ruleset.count_live(connection))
        yield _gauge("approvals_pending", "holds that wait for a decision", approvals.count_pending(connection))
        yield _gauge("agents_quarantined", "agents cut off", agents.count_quarantined(connection))
        yield _gauge("evidence_bytes", "bytes of the packets kept for findings", evidence.held(connection))
        yield from _holdings(connection)
        yield _counter("audit_entries", "entries of the audit trail", audit.latest(connection))
        yield from _fleet(gateways.listed(connection), clock(connection)[0])


def _fleet(there: Collection[StoredGateway], now: float) -> Iterator[Metric]:
    """Collect the metrics of every gateway of the database; `now` is the database's time."""
    up = GaugeMetricFamily("egress_gateway_up", "1: the gateway sends heartbeats to the database", labels=["host"])
    seen = GaugeMetricFamily("egress_gateway_seen_seconds", "time since its last heartbeat", labels=["host"])
    version = GaugeMetricFamily(
        "egress_gateway_policy_version", "policy version that all its workers enforce", labels=["host"]
    )
    skew = GaugeMetricFamily("egress_gateway_skew_seconds", "its clock minus the database's", labels=["host"])
    for each in there:
        up.add_metric([each.host], each.state(now) == UP)
        seen.add_metric([each.host], max(now - each.seen, 0.0))
        version.add_metric([each.host], each.policy_version)
        skew.add_metric([each.host], each.skew)
    if there:
        yield from (up, seen, version, skew)


def _holdings(connection: Connection) -> Iterator[Metric]:
    """Collect the size and age of the records, and the number of pruned ones."""
    size, free = sizes.sizes(connection)
    yield _gauge("database_bytes", "size of the database", size)
    yield _gauge("database_free_bytes", "part of it that new records can use", free)
    yield _gauge("oldest_record_timestamp_seconds", "start of the oldest flow; 0: none", sizes.oldest(connection))
    gone = CounterMetricFamily("egress_pruned", "records deleted for their age or size", labels=["records"])
    taken = retention.gone(connection)
    for table in retention.RECORDS:
        gone.add_metric([table.name], taken[table.name].count if table.name in taken else 0)
    yield gone


def _gateway(status: dict[str, Any]) -> Iterator[Metric]:
    """Collect the metrics of this host's gateway as a whole, its journal and its recorder."""
    yield _gauge("uptime_seconds", "time since the gateway started", max(time.time() - status["since"], 0))
    yield _gauge("fail_open", "1: packets pass uninspected while workers are missing", status["fail_open"])
    yield _gauge("policy_version", "version of the policy in force", status["policy_version"])
    yield _gauge("rules_in_place", "1: the kernel rules are in place", status["rules_in_place"])
    changed = status.get("rules_changed", 0)  # a gateway of an older version may still run
    yield _counter("rules_changed", "changes of the kernel rules by other programs, put right", changed)
    yield _gauge("cut_off", "1: all agents are cut off, since the rules kept being changed", status.get("cut", False))
    yield _gauge("agents", "agents guarded", len(status["agents"]))
    further = sum(len(agent.get("others", ())) for agent in status["agents"])
    yield _gauge("agents_further_interfaces", "interfaces to agents beside those that they are attached by", further)
    past = sum(len(agent.get("outside", ())) for agent in status["agents"])
    yield _gauge("agents_unguarded_interfaces", "interfaces of agents that lead past this host", past)
    yield _gauge("agents_absent", "agents that cannot be attached now: nothing they send passes", len(status["absent"]))
    if "journal" in status:  # a gateway of an older version may still run
        yield from _records(status["journal"], status["recorder"])
    yield _gauge(
        "audit_entry_seen", "newest entry of the audit trail that it saw", status.get("audit", {}).get("entry")
    )
    database = status.get("database", {})
    yield _gauge("database_up", "1: the gateway can use its database", bool(database.get("ok", True)))
    holds = status.get("holds", {})
    yield _gauge("holds_pending", "holds that packets wait for", holds.get("pending", 0))
    yield _counter("holds_refused", "holds refused because approval could not be requested", holds.get("refused", 0))


def _records(journal: dict[str, Any], recorder: dict[str, Any]) -> Iterator[Metric]:
    """Collect the metrics of the journal and of the recorder, which stores it in the database."""
    yield _gauge("journal_bytes", "bytes of all journal segments", journal["bytes"])
    yield _gauge("journal_max_bytes", "their bound (journal.max_bytes)", journal["max_bytes"])
    yield _gauge("journal_full", "1: near the bound, see journal.on_full", journal["full"])
    yield _gauge("journal_unrecorded_pass", "1: on_full: continue is configured", journal["on_full"] == "continue")
    yield _counter("journal_times_full", "times the bound was reached", journal["times_full"])
    yield _counter(
        "journal_lost", "records lost because they could not be written, or in a worker that died", journal["lost"]
    )
    yield _counter("journal_healed", "unfinished last lines cut off the journals of dead workers", journal["healed"])
    yield _counter(
        "journal_restored", "times the journal's directory was made again or repaired", journal.get("restored", 0)
    )
    yield _gauge("recorder_up", "1: the recorder runs", recorder["pid"] is not None)
    yield _counter("recorder_restarts", "starts of the recorder after its first", recorder["restarts"])
    yield _gauge("recorder_silent_seconds", "time since the recorder's last report", recorder["silent"])
    if "unread" in recorder:
        yield _gauge("recorder_lag_bytes", "bytes of the journal that are not stored yet", recorder["unread"])
        yield _gauge("recorder_lag_seconds", "age of the oldest record among them", recorder["seconds"])
        yield _gauge("journal_segments", "files in the journal", recorder["segments"])
    if "stored" in recorder:
        yield _gauge(
            "recorder_trouble", "1: the recorder cannot store records, see egress doctor", bool(recorder["trouble"])
        )
        yield _counter("recorder_stored", "records stored since the recorder's start", recorder["stored"])
        yield _counter("recorder_garbage", "journal lines that are not valid records, quarantined", recorder["garbage"])


def _replies(status: dict[str, Any]) -> Iterator[Metric]:
    """Collect the answers by DNS to refused queries, over all workers."""
    found = CounterMetricFamily(
        "egress_dns_refusals", "answers by DNS to refused queries, by result", labels=["result"]
    )
    for result in ("sent", "limited", "failed"):
        counts = [worker["counters"].get("replies", {}).get(result, 0) for worker in status["workers"]]
        found.add_metric([result], sum(counts))
    yield found


def _attribution(status: dict[str, Any]) -> Iterator[Metric]:
    """Collect the metrics of the attribution process; none if attribution is disabled."""
    found = status.get("attribution", {})
    if not found.get("enabled"):
        return
    yield _gauge("attribution_up", "1: the attribution process runs", found["pid"] is not None)
    yield _counter("attribution_restarts", "starts of the attribution process after its first", found["restarts"])
    counters = found["counters"]
    flows = CounterMetricFamily("egress_attribution", "flows whose process was looked up", labels=["status"])
    for what in ("found", "gone", "unknown", "garbage", "unwritten"):
        flows.add_metric([what], counters.get(what, 0))
    each_worker = [worker["counters"].get("attribution", {}) for worker in status["workers"]]
    flows.add_metric(["dropped"], sum(each.get("dropped", 0) for each in each_worker))
    yield flows
    vain = sum(each.get("vain", 0) for each in each_worker)
    yield _counter("attribution_vain", "refusals that timed out waiting for the look-up", vain)
    for what in ("median", "worst"):
        about = f"{what} of the last thousand look-ups, from the flow's start to its record"
        yield _gauge(f"attribution_{what}_seconds", about, (counters.get(what) or 0.0) / 1000)


def _drops(agents: list[dict[str, Any]]) -> Iterator[Metric]:
    """Collect the packets of each agent that the kernel dropped because a queue was full."""
    dropped = CounterMetricFamily(
        "egress_dropped",
        "packets of an agent that the kernel dropped because its queue was full",
        labels=["agent", "queue", "by"],
    )
    for agent in agents:
        for queue, drops in agent["dropped"].items():
            for by, count in drops.items():
                dropped.add_metric([agent["name"], queue, by], count)
    yield dropped


def _workers(workers: list[dict[str, Any]]) -> Iterator[Metric]:
    """Collect the metrics of each worker; only its state and restarts while it has not reported counters."""
    alive = GaugeMetricFamily("egress_worker_up", "1: the worker runs", labels=["worker"])
    restarts = CounterMetricFamily("egress_worker_restarts", "replacements of a worker", labels=["worker"])
    packets = CounterMetricFamily("egress_packets", "packets read from a queue and judged", labels=["worker", "queue"])
    faults = CounterMetricFamily(
        "egress_faults", "packets that met a bug, match no agent, or were not recorded", labels=["worker", "kind"]
    )
    multipath = CounterMetricFamily(
        "egress_multipath", "SYNs whose Multipath TCP option was removed, so that one path is used", labels=["worker"]
    )
    journal = CounterMetricFamily("egress_journal", "records written, failed and lost", labels=["worker", "what"])
    healthy = GaugeMetricFamily("egress_journal_healthy", "1: records can be written", labels=["worker"])
    waiting = GaugeMetricFamily("egress_journal_waiting", "records that wait in memory", labels=["worker"])
    folded = CounterMetricFamily(
        "egress_folded", "flows and refusals without records of their own, beyond the quota", labels=["agent"]
    )
    engine = GaugeMetricFamily("egress_engine", "the engine's counters and table sizes", labels=["worker", "what"])
    for each in workers:
        worker, counters = str(each["index"]), each["counters"]
        alive.add_metric([worker], each["alive"])
        restarts.add_metric([worker], each["restarts"])
        if not counters:
            continue
        packets.add_metric([worker, "full"], counters["packets"])
        packets.add_metric([worker, "settled"], counters["settled_packets"])
        for kind in ("engine_errors", "unmatched", "unrecorded"):
            faults.add_metric([worker, kind], counters[kind])
        multipath.add_metric([worker], counters.get("multipath", 0))
        healthy.add_metric([worker], counters["journal"]["healthy"])
        waiting.add_metric([worker], counters["journal"].get("waiting", 0))
        for what in ("written", "failures", "lost"):
            journal.add_metric([worker, what], counters["journal"][what])
        for agent, count in counters.get("folded", {}).items():
            folded.add_metric([agent], count)
        for what, count in counters["engine"].items():
            engine.add_metric([worker, what], count)
    yield from (alive, restarts, packets, faults, multipath, healthy, waiting, journal, folded, engine)


def _gauge(name: str, about: str, value: float | None) -> Metric:
    """Make a gauge named egress_NAME; None is 0."""
    return GaugeMetricFamily(f"egress_{name}", about, value=float(value or 0))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"egress_{name}", about, value=float(value))
