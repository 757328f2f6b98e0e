"""Large bodies of traces are read apart: the same spans, and others are answered meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from api.otlp import apart
from api.otlp.answers import JSON, PROTOBUF
from api.otlp.spans import MalformedSpanError
from tests.api.conftest import Client
from tests.api.test_otlp import PATH, binary, request, span
from tests.api.test_serve import ROOT, local, serving, write_config

SLOW = 0.25  # seconds


def padded(body: bytes) -> bytes:
    return body + b" " * apart.LARGE


def test_a_large_body_has_the_spans_of_a_small_one() -> None:
    body = json.dumps(request(span(), span(spanId=""), span({"x": "y"}, name="chat"))).encode()
    small, large = apart.read(JSON, body), apart.read(JSON, padded(body))
    assert small == large and len(small.spans) >= 1
    many = [span(spanId=f"{number:016x}") for number in range(2000)]
    found = apart.read(PROTOBUF, binary(*many))
    assert len(found.spans) == 2000
    assert found == apart._select(PROTOBUF, binary(*many))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(MalformedSpanError, match="not JSON"):
        apart.read(JSON, padded(b"{"))
    with pytest.raises(MalformedSpanError, match="not an object"):
        apart.read(JSON, padded(b"[1]"))


def test_the_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b'{"resourceSpans":' + b"[" * 500_000
    with pytest.raises(MalformedSpanError):
        apart.read(JSON, deep)


BIG = b'{"resourceSpans":[' + b",".join([b"{}"] * 400_000) + b"]}"


def asks_to_try_again(root: Client) -> bool:
    answer = root.post(PATH, content=BIG, headers={"Content-Type": JSON})
    assert "smaller batches" in answer.json()["message"]
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def test_a_reader_that_takes_too_long_asks_the_exporter_to_try_again(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "WAIT_SECONDS", 0.01)
    assert asks_to_try_again(root)


def children(task: Path) -> list[str]:
    """The children of one thread of this process; none if it has just ended."""
    try:
        return (task / "children").read_text().split()
    except OSError:
        return []


def test_a_reader_that_is_killed_asks_the_exporter_to_try_again(root: Client) -> None:
    def kill() -> None:
        while not killed:
            for child in (int(pid) for own in Path("/proc/self/task").iterdir() for pid in children(own)):
                with contextlib.suppress(OSError):
                    if b"api.otlp.apart" in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(child, signal.SIGKILL)
                        killed.append(child)
            time.sleep(0.005)

    killed: list[int] = []
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        assert asks_to_try_again(root)
    finally:
        killed.append(0)
        killer.join()


@pytest.mark.slow
def test_others_are_answered_under_bombs(tmp_path: Path) -> None:
    """Compared with the time without bombs: the machine that runs this may be busy."""
    config = write_config(tmp_path, host="")
    bomb = b'{"resourceSpans":[' + b",".join([b"{}"] * 2_700_000) + b"]}"

    def worst(client: httpx.Client, seconds: float) -> float:
        spent, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            assert client.get("/api/v1/healthz", timeout=20).status_code == 200
            spent.append(time.monotonic() - began)
            time.sleep(0.01)
        return sorted(spent)[int(len(spent) * 0.99)]

    def throw() -> None:
        with local(config) as bomber:
            while not over.is_set():
                bomber.post(PATH, content=bomb, headers={"Content-Type": JSON}, timeout=60)

    over = threading.Event()
    with serving(config), local(config) as client:
        quiet = worst(client, 2.0)
        bombers = [threading.Thread(target=throw) for _ in range(3)]
        for each in bombers:
            each.start()
        time.sleep(0.5)
        try:
            loaded = worst(client, 8.0)
        finally:
            over.set()
            for each in bombers:
                each.join()
    assert loaded <= quiet + SLOW, f"p99 {loaded * 1000:.0f} ms, without bombs {quiet * 1000:.0f} ms"


@pytest.mark.slow
@ROOT
def test_a_confined_server_reads_large_bodies_apart(tmp_path: Path) -> None:
    """`egress serve` runs under a system call filter, which its readers inherit."""
    config = write_config(tmp_path, host="")
    with serving(config) as server, local(config) as client:
        assert "Seccomp:\t2" in Path(f"/proc/{server.pid}/status").read_text()
        answer = client.post(PATH, content=padded(b'{"resourceSpans":[]}'), headers={"Content-Type": JSON}, timeout=60)
        assert answer.status_code == 200, answer.text
