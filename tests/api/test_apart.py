"""Large bodies of traces are read apart: the same spans, and others are answered meanwhile."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import httpx
import pytest

from api.otlp import apart
from api.otlp.answers import JSON, PROTOBUF
from api.otlp.spans import MalformedSpanError
from tests.api.test_otlp import PATH, binary, request, span
from tests.api.test_serve import local, serving, write_config

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
