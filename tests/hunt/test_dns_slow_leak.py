"""dns.slow-leak: names that carry data, against names that programs and people use."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from egress.hunt.hunters.dns_slow_leak import SAID, information
from egress.model import Action, Mode, Reason
from egress.records.shape import FlowRecord
from tests.hunt.histories import haul, query, stored

ID = "dns.slow-leak"
WORDS = [
    "mail",
    "cache",
    "static",
    "img",
    "api",
    "auth",
    "login",
    "cdn",
    "edge",
    "data",
    "pool",
    "build",
    "test",
    "stage",
    "prod",
    "git",
    "wiki",
    "news",
    "shop",
    "blog",
]


def _leak(count: int, size: int, domain: str = "t.example.net", **fields: object) -> list[FlowRecord]:
    rng = np.random.default_rng(1)
    labels = [base64.b32encode(rng.bytes(size)).decode().lower().rstrip("=") for _ in range(count)]
    return [query(number * 600.0, f"{label}.{domain}", **fields) for number, label in enumerate(labels)]


@pytest.mark.parametrize("count, size", [(120, 30), (400, 15), (900, 12)])
def test_data_in_names(tmp_path: Path, count: int, size: int) -> None:
    with stored(tmp_path, _leak(count, size)) as engine:
        (lead,) = haul(engine, ID).leads
    assert lead.destination == "example.net"
    assert f"{count} different names under example.net" in lead.summary
    said = int(lead.evidence.split("information_bytes=")[1].split()[0])
    assert 0.9 * count * size < said < 1.6 * count * size


def test_short_names_count_where_there_are_very_many(tmp_path: Path) -> None:
    records = [query(number, f"{number * 2654435761 % 2**32:08x}.example.net") for number in range(1200)]
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["example.net"]


def test_names_in_use_are_no_leak(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    records = [query(float(number), f"{rng.choice(WORDS)}.example.org") for number in range(1000)]
    records += [query(float(number), f"web-{number:04d}.prod.example.com") for number in range(600)]
    records += [query(float(number), f"{rng.choice(WORDS)}-{rng.choice(WORDS)}.example.net") for number in range(600)]
    records += [query(float(number), f"d{number:013x}.cloudfront.net") for number in range(200)]  # a domain each
    records += [query(float(number), f"{number}.2.0.192.in-addr.arpa") for number in range(600)]
    again = _leak(100, 30, "cache.example.info")
    records += [query(start, record.server_name) for record in again for start in (1.0, 2.0, 3.0)]
    with stored(tmp_path, records) as engine:
        assert haul(engine, ID).leads == ()


def test_a_little_is_not_found_and_what_was_refused_told_nobody(tmp_path: Path) -> None:
    refused = {"action": Action.REJECT, "reason": Reason.QUERY}
    records = _leak(60, 20, "few.example.net") + _leak(200, 30, "refused.example.org", **refused)
    records += _leak(200, 30, "seen.example.com", mode=Mode.MONITOR, **refused)
    with stored(tmp_path, records) as engine:
        assert [lead.destination for lead in haul(engine, ID).leads] == ["example.com"]


def test_a_flow_of_many_questions_is_said_to_hide_names(tmp_path: Path) -> None:
    with stored(tmp_path, [query(1.0, "www.example.org", packets_out=40)]) as engine:
        assert haul(engine, ID).notes == ("38 packets of DNS flows may contain queries for names that are not stored",)


def test_long_names_in_one_flow_are_known_by_size(tmp_path: Path) -> None:
    """The last name alone is stored; 400 queries with names of 100 bytes are larger than any header."""
    packets = 400
    tunnel = query(1.0, "x.t.example.net", packets_out=packets, bytes_out=packets * (105 + 100))
    forwarder = [query(2.0, "www.example.org", packets_out=5000, bytes_out=5000 * (57 + 28 + 30), dst="2001:db8::53")]
    behind_tcp = [query(3.0, "www.example.com", proto="tcp", packets_out=packets, bytes_out=packets * 400)]
    with stored(tmp_path, [tunnel, *forwarder, *behind_tcp]) as engine:
        (lead,) = haul(engine, ID).leads
    assert lead.destination == "example.net"
    assert "had 400 packets in 1 flow, with names of 100 bytes" in lead.summary


def test_information_is_what_compression_leaves() -> None:
    rng = np.random.default_rng(3)
    assert information([]) == 0
    assert information(["www"] * 1000) < 30
    packed = [base64.b32encode(rng.bytes(30)).decode().lower() for _ in range(200)]
    assert SAID < 200 * 30 < information(packed) < 1.15 * 200 * 30
