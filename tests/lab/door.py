"""A door to a gateway's control socket: the gateway refuses callers of another network, and the tests are in one.

`python -m tests.lab.door LISTEN CONTROL`, in the gateway's namespace: what connects to LISTEN reaches CONTROL.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

LIMIT = 65536


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(LIMIT):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(listen: str, control: str) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(control)
        except OSError:  # no gateway
            writer.close()
            return
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    server = await asyncio.start_unix_server(connected, listen)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
