"""The worker process: `python -m egress.gateway.worker`. The supervisor starts it; setup and orders come on stdin."""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import time

from egress.errors import EgressError
from egress.gateway.pipe.lines import LineReader, LineWriter
from egress.gateway.pipe.messages import encode, setup_from
from egress.gateway.worker.worker import Worker, now

BEAT_SECONDS = 1.0
_IN, _OUT = 0, 1  # stdin, stdout


def serve(worker: Worker, reader: LineReader, writer: LineWriter) -> None:
    """Run the loop until the order to stop comes or stdin is closed; then stop the worker.

    Each round gives a turn to each queue with packets, carries out orders, and runs timers that are due. A heartbeat
    (`beat`) is sent each second and at the end.
    """
    selector = worker.selector
    selector.register(_IN, selectors.EVENT_READ, lambda: listen(worker, reader, writer))
    if worker.notifier.socket is not None:
        selector.register(worker.notifier.socket, selectors.EVENT_READ, worker.notifier.read)
    beat = 0.0
    while not (worker.stopping or reader.ended):
        first = min(beat, worker.notifier.due)
        due = min(worker.engine.next_tick() - now(), first - time.monotonic(), BEAT_SECONDS)
        for key, _ in selector.select(max(due, 0.0)):
            key.data()
            worker.resume()
        worker.notifier.expire()
        worker.tick()
        worker.resume()
        if time.monotonic() >= beat:
            beat = time.monotonic() + BEAT_SECONDS
            worker.second()
            if writer.idle:
                writer.write(encode({"type": "beat", **worker.counters()}))
        writer.flush()
    worker.stop()
    writer.write(encode({"type": "beat", **worker.counters()}))


def listen(worker: Worker, reader: LineReader, writer: LineWriter) -> None:
    """Carry out the orders that have come, and answer them.

    Raises EgressError if an order fails before the worker has begun; later the answer has the error.
    """
    for line in reader.read():
        order = json.loads(line)
        answer: dict[str, object] = {}
        try:
            answer = worker.order(order)
        except EgressError as error:
            if not worker.begun:
                raise
            answer = {"error": str(error)}
        if order["op"] == "policy.commit":
            writer.write(encode({"type": "policy", "version": order["version"], **answer}))
        elif "order" in order:
            writer.write(encode({"type": "done", "order": order["order"], **answer}))


def main() -> int:
    """Run the process. Returns its exit status: 0 after a clean stop; 1 if it could not start or stdout was closed.

    The reason why it could not start is its last message on stdout.
    """
    # Ctrl-C goes to the whole process group; the supervisor stops this process by an order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # until the worker begins: a large policy is read in two thirds of the time
    reader, writer = LineReader(_IN), LineWriter(_OUT)

    def send(message: dict[str, object]) -> bool:
        if writer.full and message["type"] == "hold":
            return False
        writer.write(encode(message))
        return True

    try:
        line = reader.first()
        if not line:
            return 1
        worker = Worker(setup_from(line), send)
        while not (worker.begun or reader.ended):
            listen(worker, reader, writer)
    except EgressError as error:
        writer.write(encode({"type": "error", "text": str(error)}))
        return 1
    if not worker.begun:
        return 1
    os.set_blocking(_IN, False)
    try:
        serve(worker, reader, writer)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
