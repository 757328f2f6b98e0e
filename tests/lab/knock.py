"""Connect again and again: `python -m tests.lab.knock OUT HOST PORT`.

A line is written when an attempt's outcome differs from the one before: `open T`, or the name of an errno and T, the
time in seconds since the epoch at which the attempt began.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from pathlib import Path

from tests.lab.peer import family

PAUSE = 0.005
TIMEOUT = 1.0


def attempt(host: str, port: int) -> str:
    with socket.socket(family(host), socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect((host, port))
        except OSError as error:
            return errno.errorcode.get(error.errno, "?") if error.errno else "timeout"
        return "open"


def main() -> None:
    out, host, port = sys.argv[1:]
    before = ""
    with Path(out).open("a", buffering=1) as file:
        while True:
            began = time.time()
            now = attempt(host, int(port))
            if now != before:
                file.write(f"{now} {began}\n")
            before = now
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
