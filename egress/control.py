"""The client of the gateway's control socket; `egress.gateway.supervisor.control` describes the protocol."""

from __future__ import annotations

import dataclasses
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from egress.errors import EgressError, InputError

CALL_SECONDS = 30.0


class NotRunningError(EgressError):
    """No gateway listens on the control socket, it is stopping, or it has closed the connection."""


class Client:
    """A blocking connection to the gateway. Creating it raises NotRunningError if no gateway listens on `path`.

    `timeout` is in seconds, for each call. Raises EgressError if the socket may not be used (it is root's).
    """

    def __init__(self, path: Path, timeout: float = CALL_SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except PermissionError:
            self._socket.close()
            raise EgressError(f"only root may talk to the gateway at {path}; use sudo") from None
        except OSError:
            self._socket.close()
            raise NotRunningError(f"no gateway runs at {path}; start one with: egress gateway") from None
        self._file = self._socket.makefile("rb")

    def call(self, op: str, **fields: object) -> dict[str, Any]:
        """Send a request, the operation `op` with its fields, and return the fields of the answer, without `ok`.

        Raises NotRunningError if the gateway ends the connection, InputError if the request is wrong, and
        EgressError if the gateway refuses it or does not answer in time.
        """
        try:
            self._socket.sendall(json.dumps({"op": op, **fields}, default=dataclasses.asdict).encode() + b"\n")
            line = self._file.readline()
        except TimeoutError:
            raise EgressError("the gateway did not answer in time; see egress doctor") from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise NotRunningError("the gateway closed the connection; see its log, and egress doctor")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise (NotRunningError if answer["gone"] else InputError if answer["input"] else EgressError)(
                answer["error"]
            )
        return answer

    def finish(self) -> None:
        """End the session, and wait until the gateway has removed the sandboxes that were created in it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._file.read()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
