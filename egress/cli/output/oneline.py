"""Formats a record as one line."""

from __future__ import annotations

from egress.cli.output.text import endpoint, plain, size
from egress.model import Mode
from egress.records.shape import (
    AnomalyRecord,
    FindingRecord,
    FlowRecord,
    FoldedRecord,
    ProcessRecord,
    ProcessStatus,
)


def brief(record: FlowRecord | FindingRecord | AnomalyRecord | ProcessRecord | FoldedRecord) -> str:
    """Format a record of any kind as one line, without its time and agent. Control characters are escaped."""
    if isinstance(record, FlowRecord):
        return _flow(record)
    if isinstance(record, FindingRecord):
        return plain(
            f"FINDING {record.signature} {record.severity} {record.proto} {endpoint(record.dst, record.dport)}: "
            f"{record.summary} (finding {record.finding_id[:8]}, flow {record.flow_id[:8]})"
        )
    if isinstance(record, ProcessRecord):
        return _process(record)
    if isinstance(record, FoldedRecord):
        return _folded(record)
    times = f" ({record.count} packets)" if record.count > 1 else ""
    path = f"{record.src or '?'} -> {record.dst or '?'}"
    return plain(f"refused {record.reason}: {record.detail}{times} {record.proto} {path}")


def _flow(flow: FlowRecord) -> str:
    monitored = f" ({flow.mode})" if flow.mode is Mode.MONITOR else ""
    name = flow.server_name or ", ".join(flow.names)
    path = f"{flow.proto} {endpoint(flow.src, flow.sport)} -> {endpoint(flow.dst, flow.dport)}"
    why = f"{flow.reason} {flow.rule_id}".rstrip()
    parts = (f"{flow.action}{monitored}", path, flow.app_proto, name, size(flow.bytes_out + flow.bytes_in))
    return plain(f"{' '.join(part for part in parts if part)} [{why}] {flow.state} (flow {flow.flow_id[:8]})")


def _process(process: ProcessRecord) -> str:
    flow = f"(flow {process.flow_id[:8]})"
    if not process.exe:
        return plain(f"process {process.status}: {process.reason} {flow}")
    container = f" in {process.runtime} {process.container[:12]}" if process.container else ""
    ended = "" if process.status is ProcessStatus.FOUND else f" [{process.reason}]"
    shown = process.cmdline or process.exe
    return plain(f"process {shown} (pid {process.pid}, uid {process.uid}){container}{ended} {flow}")


def _folded(folded: FoldedRecord) -> str:
    kinds = {"flow": "flows", "alert": f"findings {folded.signature}", "anomaly": "refused packets"}
    where = endpoint(folded.dst, folded.dport) if folded.dst else "several destinations"
    seconds = f"{folded.time - folded.start:.0f} s"
    text = f"folded {folded.count} {kinds[folded.kind]} {folded.proto} to {where} in {seconds}: {folded.action}"
    return plain(f"{text} {size(folded.bytes_out + folded.bytes_in)} [{folded.reason}]")
