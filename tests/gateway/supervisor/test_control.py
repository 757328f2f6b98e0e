"""The control socket: answers, refusals, hostile lines, and leases that end with their connection."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.control import Client, NotRunningError
from egress.errors import EgressError, InputError
from egress.gateway.supervisor.control import Server, Session

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the socket is root's")


class Gateway:
    """A server in a thread; `held` are the open leases."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: set[str] = set()
        self.changed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._server = Server(path, self._handle)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.wait(self._server.start)

    def wait(self, function: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(function(), self._loop).result(10)

    def close(self) -> None:
        self.wait(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _handle(self, session: Session, message: dict[str, Any]) -> dict[str, object]:
        if message["op"] == "lease":
            name = str(message["name"])
            self.held.add(name)

            async def release() -> None:
                if name == "stuck":
                    raise EgressError("it cannot be removed")
                self.held.discard(name)
                self.changed.set()

            session.leases.append(release)
            return {"pid": session.pid}
        if message["op"] == "wrong":
            raise InputError("a bad name")
        if message["op"] == "gone":
            raise NotRunningError("the gateway is stopping")
        raise EgressError(f"no operation {message['op']}")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    running = Gateway(tmp_path / "sock")
    yield running
    running.close()
    assert not running.path.exists()
    assert not running.held


@needs_root
def test_a_lease_ends_with_its_connection(gateway: Gateway) -> None:
    with Client(gateway.path) as client:
        assert client.call("lease", name="a") == {"pid": os.getpid()}
        assert client.call("lease", name="b") == {"pid": os.getpid()}
        assert gateway.held == {"a", "b"}
    assert gateway.changed.wait(5)
    with pytest.raises(EgressError, match="no operation x"), Client(gateway.path) as client:
        client.call("x")
    assert gateway.held == set()


@needs_root
def test_a_lease_that_cannot_be_ended_does_not_keep_the_others(gateway: Gateway) -> None:
    with Client(gateway.path) as client:
        client.call("lease", name="a")
        client.call("lease", name="stuck")
    assert gateway.changed.wait(5)
    assert gateway.held == {"stuck"}
    gateway.held.clear()


@needs_root
def test_the_socket_is_for_its_owner_only(gateway: Gateway) -> None:
    assert gateway.path.stat().st_mode & 0o777 == 0o600


@needs_root
@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[1]\n", b"\xff\xfe\n", b'{"op": 1}\n', b'{"op": "x"}\n'])
def test_any_line_is_answered_with_one_line(gateway: Gateway, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(gateway.path))
        sock.sendall(line)
        with sock.makefile("rb") as file:
            assert file.readline().startswith(b'{"ok":false,"error":"')


@needs_root
def test_a_gateway_that_ends_is_told_from_a_refusal(gateway: Gateway) -> None:
    with pytest.raises(NotRunningError), Client(gateway.path) as client:
        client.call("gone")


@needs_root
def test_whose_fault_it_is_arrives(gateway: Gateway) -> None:
    with pytest.raises(InputError, match="a bad name"), Client(gateway.path) as client:
        client.call("wrong")


def test_nobody_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="egress gateway"):
        Client(tmp_path / "sock")


@needs_root
def test_root_of_another_network_is_refused(gateway: Gateway) -> None:
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"op": "lease", "name": "a"}\\n\'); print(s.recv(100).decode())\n'
    )
    arguments = [sys.executable, "-I", "-c", program, str(gateway.path)]
    ours = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert '"ok":true' in ours.stdout
    agent = subprocess.run(["unshare", "--net", *arguments], capture_output=True, text=True, check=False)
    assert "ok" not in agent.stdout and not gateway.held
