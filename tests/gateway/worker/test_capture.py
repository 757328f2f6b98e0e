"""The capture file, read back by our own reader and by scapy."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from egress.capture import frames
from egress.gateway.worker.capture import CaptureWriter, seconds
from egress.model import Direction

MICROS = st.integers(0, (1 << 32) * 1_000_000 - 1)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=200), MICROS), max_size=5), st.text(max_size=20))
def test_bytes_and_times_come_back_exactly(packets: list[tuple[bytes, int]], agent: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        capture = CaptureWriter(Path(directory), 0, 1.0)
        for raw, micros in packets:
            capture.packet(raw, len(raw) + 7, seconds(micros), agent.replace("\0", ""), Direction.OUT, False)
        capture.close()
        data = capture.path.read_bytes()
        with RawPcapNgReader(str(capture.path)) as reader:
            known = list(reader)
    read = list(frames(io.BytesIO(data)))
    assert [(frame.data, frame.ts, frame.wire_length) for frame in read] == [
        (raw, seconds(micros), len(raw) + 7) for raw, micros in packets
    ]
    assert [raw for raw, _ in known] == [raw for raw, _ in packets]


def test_it_is_bounded(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path, 1, 2.0, limit=1000)
    for _ in range(100):
        capture.packet(bytes(100), 100, 3.0, "a", Direction.IN, True)
    capture.close()
    assert capture.path.stat().st_size <= 1000
    read = list(frames(io.BytesIO(capture.path.read_bytes())))
    assert 0 < len(read) < 100
    assert capture.skipped == 100 - len(read)
