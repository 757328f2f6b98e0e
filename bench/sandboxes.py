"""Open many sandboxes at once, and close them: `python -m bench.sandboxes --count 50` (root).

`egress run` is started that many times together. The seconds contain all that it does, also its own start.

Each command sends a datagram that nothing allows, to a counter outside, as its first act: none may arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from demo.stage import SERVER, Stage
from tests.lab.canaries import PORT
from tests.lab.gateway import Peer

COUNT = 50
WAIT_SECONDS = 300.0
CANARY = f"""
for host in {SERVER[0]} {SERVER[1]}; do echo canary >/dev/udp/$host/{PORT}; done 2>/dev/null
echo up; read line
"""


def measure(count: int = COUNT) -> dict[str, float]:
    """Open `count` sandboxes at once and close them; return the measurements by their names, for `main` to print.

    They are the seconds until all commands run and until all sandboxes are gone, CPU times, interfaces and canaries.
    """
    with Stage() as stage:
        stage.start("--workers", "2")
        assert stage.daemon is not None
        counter = Peer(stage, stage.outside, "count", *SERVER, module="tests.lab.canaries")
        counter.hears("0")
        gateway, began = _cpu(stage), time.monotonic()
        runs = [_run(stage, f"box-{number}") for number in range(count)]
        opened = sum(_says(run, "up") for run in runs)
        up, opening = time.monotonic() - began, _cpu(stage) - gateway
        resting = resource.getrusage(resource.RUSAGE_CHILDREN)
        links = len(_links(stage))
        began = time.monotonic()
        for run in runs:
            with contextlib.suppress(BrokenPipeError):
                assert run.stdin is not None
                run.stdin.write("end\n")
                run.stdin.flush()
        for run in runs:
            run.wait(WAIT_SECONDS)
        down, ended = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "sandboxes asked for": count,
            "opened": opened,
            "interfaces": links,
            "seconds until all run": up,
            "CPU seconds of gateway": opening,
            "CPU seconds of commands": ended.ru_utime + ended.ru_stime - resting.ru_utime - resting.ru_stime,
            "seconds until all gone": down,
            "interfaces left": len(_links(stage)),
            "canaries that came out": int(counter.lines[-1]),
        }


def _run(stage: Stage, agent: str) -> subprocess.Popen[str]:
    """Start `egress run` for an agent; its command sends a canary, says `up`, and ends after a line of input."""
    words = ["run", "--config", str(stage.config_file), "--agent", agent, "--user", "root", "--", "bash", "-c", CANARY]
    return stage.lab.popen(stage.gateway, [sys.executable, "-m", "egress", *words])


def _says(run: subprocess.Popen[str], word: str) -> bool:
    """Return True if the next line of the command's output is `word`."""
    assert run.stdout is not None
    return run.stdout.readline() == f"{word}\n"


def _links(stage: Stage) -> list[str]:
    """Return the lines of `ip link` for the interfaces of sandboxes."""
    listed = stage.lab.run(stage.gateway, ["ip", "-br", "link"]).stdout.splitlines()
    return [line for line in listed if line.startswith("egr")]


def _cpu(stage: Stage) -> float:
    """Add up the CPU seconds of the supervisor and of its children that have ended."""
    assert stage.daemon is not None
    fields = Path(f"/proc/{stage.daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sandboxes", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT)
    for name, value in measure(parser.parse_args().count).items():
        print(f"{name:26}{value:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
