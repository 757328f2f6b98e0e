"""Open a connection every ten milliseconds: `python -m tests.lab.setups HOST PORT SECONDS`.

Prints, as JSON, the milliseconds that each took, and the number that failed.
"""

from __future__ import annotations

import json
import socket
import sys
import time

PAUSE, PATIENCE = 0.01, 2.0  # seconds


def main() -> None:
    host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    took: list[float] = []
    failed, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        try:
            with socket.create_connection((host, port), PATIENCE):
                took.append((time.perf_counter() - began) * 1000)
        except OSError:
            failed += 1
        time.sleep(PAUSE)
    sys.stdout.write(json.dumps({"took": took, "failed": failed}) + "\n")


if __name__ == "__main__":
    main()
