"""tunnel.slow-leak: small amounts that come to much; not one upload, not fetching, not less than asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egress.hunt.hunter import Settings
from tests.hunt.histories import DAY, flow, flows, haul, named, stored

ID = "tunnel.slow-leak"
STARTS = np.arange(50) * 10_000.0


def _leads(path: Path, *fields: dict[str, Any], settings: Settings | None = None) -> list[str]:
    records = [record for each in fields for record in flows(STARTS, **each)]
    with stored(path, records) as engine:
        return [lead.destination for lead in haul(engine, ID, settings=settings).leads]


def test_small_amounts_over_days(tmp_path: Path) -> None:
    assert _leads(tmp_path, {"bytes_out": 250_000, "bytes_in": 9000, **named("a.example.net")}) == ["example.net"]


def test_many_hosts_of_a_domain_are_one_destination(tmp_path: Path) -> None:
    fields = [
        {"bytes_out": 60_000, "bytes_in": 900, **named(f"h{number}.example.net", f"203.0.113.{number}")}
        for number in range(4)
    ]
    assert _leads(tmp_path, *fields) == ["example.net"]


@pytest.mark.parametrize(
    "bytes_out, bytes_in",
    [(190_000, 9000), (250_000, 200_000), (9000, 250_000)],
    ids=["less than asked for", "as much comes back", "fetching"],
)
def test_what_is_no_leak(tmp_path: Path, bytes_out: int, bytes_in: int) -> None:
    assert _leads(tmp_path, {"bytes_out": bytes_out, "bytes_in": bytes_in}) == []


def test_the_person_who_hunts_sets_how_much(tmp_path: Path) -> None:
    small = {"bytes_out": 20_000, "bytes_in": 1000}
    assert _leads(tmp_path, small, settings=Settings(leak_bytes=1_000_000)) == ["198.51.100.7"]


def test_one_large_upload_is_not_slow_but_one_long_flow_is(tmp_path: Path) -> None:
    large = flow(DAY, dst="203.0.113.1", bytes_out=50_000_000, bytes_in=1000)
    small = flows(STARTS, dst="203.0.113.1", bytes_out=1000, bytes_in=10)
    begun = flow(DAY, dst="2001:db8::1", bytes_out=50_000_000, bytes_in=1000)
    long = type(begun)(**{name: getattr(begun, name) for name in begun.__slots__} | {"updated": begun.start + DAY})
    with stored(tmp_path, [large, *small, long]) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["2001:db8::1"]


def test_counters_of_any_size(tmp_path: Path) -> None:
    most = (1 << 63) - 1
    assert _leads(tmp_path, {"bytes_out": most, "bytes_in": 0, "packets_out": most}) == ["198.51.100.7"]
