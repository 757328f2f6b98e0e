"""Start, watch and stop the recorder process."""

from __future__ import annotations

import asyncio
import signal

from egress.config import Config
from egress.gateway.kernel.command import python
from egress.gateway.supervisor.processes.companion import Companion
from egress.store.recording.recorder import ARGUMENTS, BEATS, config_line


class RecorderProcess(Companion):
    """The process that moves journals into the database."""

    name = "recorder"
    left = "the journal keeps what is not stored yet"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config_line(config)

    async def _start(self) -> asyncio.subprocess.Process:
        _, environment = python("egress.store.recording.recorder")
        # The child inherits the mask: a SIGTERM during its start waits until the child can store the last records.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            process = await asyncio.create_subprocess_exec(
                *(*ARGUMENTS, BEATS),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if process.stdin is not None:
            process.stdin.write(self._config.encode())  # if it ends at once, its successor gets the config again
            process.stdin.close()
        return process
