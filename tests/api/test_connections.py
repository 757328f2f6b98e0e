"""Clients that take their time cost others nothing: real servers, real sockets."""

from __future__ import annotations

import errno
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from api.connections import A_PEER, CONNECTIONS, Visit, Visits, host_of
from api.patience import BODY_SECONDS, HEAD_SECONDS
from tests.api.test_serve import Authority, local, port_of, serving, write_config

HALF = b"GET /api/v1/allowlist HTTP/1.1\r\nHost: gateway\r\nX-Slow: "
SLOW_BODY = b"POST /api/v1/healthz HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\n{"


@contextmanager
def strangers(count: int, address: tuple[str, int] | str, said: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that say a part of a request, and keep them open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with ExitStack() as held:
        sockets = []
        for _ in range(count):
            sock = held.enter_context(socket.socket(family))
            sock.settimeout(20)
            while sock.connect_ex(address) == errno.EAGAIN:  # a full backlog of a unix socket
                time.sleep(0.01)
            with suppress(ConnectionError):  # it has made room already
                sock.sendall(said)
            sockets.append(sock)
        yield sockets


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The config of a server that several strangers meet, one after another."""
    config = write_config(tmp_path_factory.mktemp("served"))
    with serving(config):
        yield config


@pytest.mark.parametrize("said", [HALF, SLOW_BODY, b"", b"\x16\x03\x01"])
def test_a_stranger_with_half_requests_keeps_no_one_out(served: Path, said: bytes) -> None:
    port = port_of(served)
    with strangers(1005, ("127.0.0.1", port), said):
        for _ in range(5):  # from the stranger's own address, too
            assert httpx.get(f"http://127.0.0.1:{port}/api/v1/healthz", timeout=10).status_code == 200
        with local(served) as root:
            assert root.get("/api/v1/healthz").status_code == 200


@pytest.mark.slow
def test_nor_on_the_unix_socket(tmp_path: Path) -> None:
    config = write_config(tmp_path, host="")
    with serving(config), strangers(1005, str(tmp_path / "api.sock"), HALF), local(config) as root:
        assert root.get("/api/v1/healthz").status_code == 200


@pytest.mark.slow
def test_nor_with_handshakes_that_never_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    cert, key = authority.issue("server")
    config = write_config(tmp_path, tls_cert=str(cert), tls_key=str(key))
    trust = ssl.create_default_context(cafile=str(authority.file))
    half = b"\x16\x03\x01\x02"
    with serving(config), strangers(1005, ("127.0.0.1", port_of(config)), half), httpx.Client(verify=trust) as client:
        assert client.get(f"https://localhost:{port_of(config)}/api/v1/healthz", timeout=20).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("said, seconds", [(HALF, HEAD_SECONDS), (b"", HEAD_SECONDS), (SLOW_BODY, BODY_SECONDS)])
def test_a_half_request_ends_in_time_though_bytes_trickle(tmp_path: Path, said: bytes, seconds: float) -> None:
    config = write_config(tmp_path)
    with serving(config), strangers(1, ("127.0.0.1", port_of(config)), said) as (sock,):
        began = time.monotonic()
        sock.settimeout(0.5)
        while time.monotonic() - began < seconds + 10:
            try:
                if said:
                    sock.sendall(b"a")
                if sock.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert seconds - 1 < time.monotonic() - began < seconds + 3


@pytest.mark.slow
def test_a_long_answer_and_a_kept_connection_are_not_cut(tmp_path: Path) -> None:
    config = write_config(tmp_path, host="")
    with serving(config), local(config) as root, root.stream("GET", "/api/v1/stream") as stream:
        assert stream.status_code == 200
        chunks = stream.iter_raw()
        assert next(chunks)
        with local(config) as other:
            for _ in range(3):
                assert other.get("/api/v1/healthz").status_code == 200
        time.sleep(HEAD_SECONDS + 2)
        assert next(chunks), "the stream goes on"


def test_the_connection_that_waited_longest_makes_room_and_busy_ones_do_not(caplog: pytest.LogCaptureFixture) -> None:
    visits = Visits(most=4, a_peer=2)
    with ExitStack() as held:

        def come(peer: str) -> tuple[socket.socket, Visit | None]:
            theirs, ours = (held.enter_context(end) for end in socket.socketpair())
            visit = visits.admit(ours, peer)
            if visit is not None:
                held.enter_context(visit)
            theirs.setblocking(False)
            return theirs, visit

        first, one = come("a")
        _, two = come("a")
        assert one is not None and two is not None and visits.find(two.fileno()) is two
        come("a")
        assert first.recv(1) == b"" and len(visits) == 2, "the oldest of its own made room"
        two.close()
        assert len(visits) == 1
        two.close()
        for visit in list(visits._all.values()):
            visit.waiting = False
        _, busy = come("a")
        assert busy is not None
        busy.waiting = False
        refused, none = come("a")
        assert none is None and refused.recv(1) == b""
        assert [come(peer)[1] is not None for peer in "bcd"] == [True, True, True]
        assert len(visits) == 4
        (complaint,) = caplog.messages
        assert "of a beside 2 others" in complaint, "once a minute"


@pytest.mark.slow
def test_hosts() -> None:
    assert host_of("192.0.2.1") == host_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert host_of("2001:db8::1") == host_of("2001:db8::ffff:1") != host_of("2001:db8:0:1::1")
    assert host_of("fe80::1%eth0") == "fe80::"
    assert A_PEER < CONNECTIONS
