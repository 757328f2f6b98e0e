"""Relays connections to a gateway's control socket, for tests that run in another network namespace.

The gateway refuses callers of other network namespaces. `python -m tests.lab.door LISTEN CONTROL` runs in the gateway's
namespace, listens on the unix socket LISTEN and passes each connection on to the socket CONTROL.
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
