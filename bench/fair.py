"""Measure how much one agent's flood slows its neighbour on the same worker: `python -m bench.fair` (root).

Each kind of flood is measured between two controls: measurements beside an agent that burns a processor and sends
nothing. The result is compared with the mean of the two.
"""

from __future__ import annotations

import argparse

from demo.stage import Stage
from tests.lab.flood import KINDS
from tests.lab.gateway import queue_drops
from tests.lab.neighbours import RULES, Neighbours


def main() -> int:
    """Print a row for each kind of flood: the median time to set up a connection, and its ratio to the control.

    Then the connections that failed, and the packets that the kernel dropped of flooder and neighbour.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.fair", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    print(
        f"{'flood':14}{'median ms':>10}{'control':>10}{'ratio':>7}{'failed':>8}   packets dropped: flooder, neighbour"
    )
    with Stage(RULES) as stage:
        lab = Neighbours(stage)
        before = lab.beside("control", seconds)
        for kind in KINDS:
            if kind == "control":
                continue
            found = lab.beside(kind, seconds)
            after = lab.beside("control", seconds)
            control = (before.median + after.median) / 2
            lost = f"{queue_drops(stage, 'red'):>10}{queue_drops(stage, 'by'):>6}"
            print(f"{kind:14}{found.median:10.2f}{control:10.2f}{found.median / control:7.2f}{found.failed:8}   {lost}")
            before = after
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
