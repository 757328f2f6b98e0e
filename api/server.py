"""The servers of `egress serve`: a TCP port, with TLS if configured, and a unix socket, in one process.

On the unix socket the kernel identifies the caller. `api.connections` passes the user id on to the application, as the
client address `unix:UID`. Every user may connect (mode 0666) and is authenticated then; tokens are valid there too. A
process in another network namespace counts as an agent and needs a token, even as root.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.connections import Door
from api.patience import protocol
from egress.config import Api, Config
from egress.errors import EgressError, InputError

DRAIN_SECONDS = 10  # time for running requests to finish after SIGTERM
BACKLOG = 512  # connections that wait to be accepted, see listen(2)

log = logging.getLogger("egress.api")


class _Server(uvicorn.Server):
    """A server that leaves signals to `_serve`, which runs two of them in one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(app: FastAPI, config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then give running requests DRAIN_SECONDS to finish.

    Listens on the config's host and port, if it has a host, and on its unix socket, whose file is removed at the end.
    Raises EgressError or InputError if it cannot listen.
    """
    context = tls_context(config.api)
    doors: list[Door] = []
    try:
        if config.api.host:
            doors.append(Door(_tcp(config.api)))
        doors.append(Door(_unix(config.api_socket)))
        inode = config.api_socket.stat().st_ino
        asyncio.run(_serve(app, doors, context))
    finally:
        for door in doors:
            door.close()
    _remove(config.api_socket, inode)


async def _serve(app: FastAPI, doors: list[Door], context: ssl.SSLContext | None) -> None:
    servers = [
        _Server(_settings(app, protocol(door.visits), None if door.family == socket.AF_UNIX else context))
        for door in doors
    ]

    def stop() -> None:
        app.state.stopping.set()
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve([door]) for server, door in zip(servers, doors, strict=True)))


def _settings(app: FastAPI, http: type[H11Protocol], context: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        loop="asyncio",
        lifespan="off",  # the command opens and closes the database, once for both servers
        log_config=None,
        log_level="warning",
        access_log=False,  # the gate's log names the caller
        proxy_headers=False,  # X-Forwarded-For could forge an address of the unix socket
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=BACKLOG,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )


def tls_context(api: Api) -> ssl.SSLContext | None:
    """Return a context for TLS 1.2 or later; None without a configured certificate.

    If the config names a client CA, clients must present a certificate of it. Raises InputError if a file is unusable.
    """
    if api.tls_cert is None or api.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(api.tls_cert, api.tls_key, password=_no_password)
    except OSError as error:  # includes ssl.SSLError
        reason = _reason(error)
        raise InputError(f"api.tls_cert {api.tls_cert}, api.tls_key {api.tls_key}: {reason}; PEM is needed") from None
    if api.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(api.tls_client_ca)
        except OSError as error:
            raise InputError(f"api.tls_client_ca {api.tls_client_ca}: {_reason(error)}; PEM is needed") from None
    return context


def _no_password() -> str:
    """Raise InputError: OpenSSL calls this function for the password of an encrypted key."""
    raise InputError("api.tls_key: the key is encrypted; use one without a password, readable by root alone")


def _reason(error: OSError) -> str:
    """Return the reason of an error of TLS files as lower-case text."""
    return (getattr(error, "reason", None) or error.strerror or str(error)).replace("_", " ").lower()


def is_exposed(api: Api) -> bool:
    """Return True if other hosts can connect without TLS: their tokens would be sent in clear text."""
    if not api.host or api.tls_cert is not None or api.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(api.host).is_loopback
    except ValueError:
        return True


def _tcp(api: Api) -> socket.socket:
    """Listen on the config's host and port. Raises InputError for a wrong host, EgressError if it cannot listen."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            api.host, api.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"api.host: {api.host!r} is not an address of this host") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise EgressError(
            f"cannot listen on {api.host} port {api.port}: {error.strerror}; is it taken? see api in the config"
        ) from None
    return listener


def _unix(path: Path) -> socket.socket:
    """Listen on a socket at `path`; replace one that a killed server left behind. Raises EgressError."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except OSError as error:
            raise _cannot_listen(path, error) from None
        else:
            raise EgressError(f"another egress serve listens at {path}; stop it or use another run_dir")
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(path, error) from None
    return listener


def _cannot_listen(path: Path, error: OSError) -> EgressError:
    return EgressError(f"cannot listen at {path}: {error.strerror or error}; check run_dir in the config")


def _remove(path: Path, inode: int) -> None:
    """Remove our socket file (`inode`), but not one that another server has put in its place."""
    try:
        if path.stat().st_ino == inode:
            path.unlink()
    except OSError:
        log.warning("cannot remove %s", path)


def names(config: Config) -> str:
    """Format the URL and the socket path that the server listens on."""
    host = f"[{config.api.host}]" if ":" in config.api.host else config.api.host
    scheme = "https" if config.api.tls_cert is not None else "http"
    tcp = f"{scheme}://{host}:{config.api.port} and " if host else ""
    return f"{tcp}{os.fspath(config.api_socket)}"
