"""The client of the REST API, for the commands that edit or ask the policy.

It uses `--api URL` (with a token from EGRESS_TOKEN or a file), else the unix socket of `egress serve` on this host,
else the application itself, in this process and over the database (docs/adr/0012). In the last two cases the kernel
identifies the caller. With --case (`params.case_option`, for commands that only read) it runs in this process, over the
case, and the caller counts as root.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import httpx

from egress.cli.input.params import chosen_case
from egress.cli.output.text import plain
from egress.config import Config, load_config
from egress.errors import EgressError, InputError

SECONDS = 60.0  # timeout of a request
LONG_SECONDS = 900.0  # for requests that read all stored flows
PAGE = 1000  # items of a listing per request
MAX_TOKEN = 256  # characters

_F = TypeVar("_F", bound=Callable[..., Any])


class ApiClient:
    """A client of one API. Methods raise InputError if the request is wrong, EgressError for any other failure."""

    def __init__(self, url: str, token: str, ca: Path | None, config: Config, case: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.control_socket = config.control_socket  # the gateway on this host
        self.host = config.host_name
        self.policy_snapshot = config.policy_snapshot  # of the gateway on this host
        self._location = url
        self._remote: httpx.Client | None = None
        if case:
            if url:
                raise InputError("--case names a file of this host, --api a server: give only one of them")
            self._in_process = _InProcess(config, {}, case)
        elif url:
            try:
                self._remote = httpx.Client(base_url=url, headers=headers, verify=_trust(ca), timeout=SECONDS)
            except httpx.InvalidURL as error:
                raise InputError(f"--api {plain(url)}: {error}; write one like http://127.0.0.1:7477") from None
        elif _listens(config.api_socket):
            self._location = str(config.api_socket)
            transport = httpx.HTTPTransport(uds=self._location)
            self._remote = httpx.Client(transport=transport, base_url="http://egress", headers=headers, timeout=SECONDS)
        else:
            self._in_process = _InProcess(config, headers)

    def close(self) -> None:
        if self._remote is not None:
            self._remote.close()
        else:
            self._in_process.close()

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: str, **params: object) -> Any:
        """Send a GET request with these query parameters, as `call` does."""
        return self.call("GET", path, params=params)

    def post(self, path: str, body: object = None, **params: object) -> Any:
        """Send a POST request with a body of JSON types (None: no body) and query parameters, as `call` does."""
        return self.call("POST", path, params=params, body=body)

    def delete(self, path: str, **params: object) -> Any:
        """Send a DELETE request with these query parameters, as `call` does."""
        return self.call("DELETE", path, params=params)

    def pages(self, path: str, limit: int | None = None, **params: object) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing, at most `limit` of them (None: all). Requests each page when it is needed."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(path, **params, limit=size, cursor=cursor)
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page.get("next")
            if not cursor:
                return

    def call(
        self, method: str, path: str, *, params: dict[str, object], body: object = None, content: bytes | None = None,
        kind: str = "application/json", seconds: float = SECONDS,
    ) -> Any:  # fmt: skip
        """Send a request, as `raw` does; return the response's JSON, None without content. Raises EgressError."""
        answer = self.raw(method, path, params=params, body=body, content=content, kind=kind, seconds=seconds)
        if answer.status_code == 204 or not answer.content:
            return None
        if "json" not in answer.headers.get("content-type", ""):
            raise EgressError(f"the server at {self._location} is not the API of egress")
        return answer.json()

    def raw(
        self, method: str, path: str, *, params: dict[str, object], body: object = None, content: bytes | None = None,
        kind: str = "application/json", seconds: float = SECONDS,
    ) -> httpx.Response:  # fmt: skip
        """Send a request to a path below /api/v1; return the response.

        Parameters that are None, empty or False are left out; a final _ of their names is dropped. The body is `body`,
        of JSON types, or `content`, of the media type `kind`. `seconds` is the timeout; in process there is none.
        Raises InputError if the status is 400, 413, 415 or 422, EgressError for any other but 2xx, or without a
        response.
        """
        data = json.dumps(body).encode() if body is not None else content
        given = {key.rstrip("_"): _text(value) for key, value in params.items() if value not in (None, "", False)}
        headers = {"Content-Type": kind} if data is not None else {}
        try:
            if self._remote is not None:
                answer = self._remote.request(
                    method, f"/api/v1{path}", params=given, content=data, headers=headers, timeout=seconds
                )
            else:
                answer = self._in_process.request(method, f"/api/v1{path}", given, data, headers)
        except httpx.HTTPError as error:
            raise EgressError(f"cannot reach the API at {self._location}: {error or type(error).__name__}") from None
        if answer.is_success:
            return answer
        raise _problem(answer)


class _InProcess:
    """Runs the application in this process. The caller is the user who runs the command; over a case, root."""

    def __init__(self, config: Config, headers: dict[str, str], case: str | None = None) -> None:
        from api.app import create_app

        self._case = None
        who = os.getuid()
        if case:
            from egress.store.cases.cases import open_case

            self._case = open_case(config, case, writes=True)
            who = 0  # access to the case's file is enough: no role is needed
        elif os.getuid() == 0 and not config.database:  # a fresh host has no state directory yet
            config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._headers, self._app = headers, create_app(config, self._case)
        self._transport = httpx.ASGITransport(self._app, client=(f"unix:{who}", os.getpid()))

    def close(self) -> None:
        self._app.state.database.close()
        if self._case is not None:
            self._case.dispose()

    def request(
        self, method: str, path: str, params: dict[str, str], data: bytes | None, headers: dict[str, str]
    ) -> httpx.Response:
        """Send a request to the application; return its response."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://egress", timeout=None) as client:
                sent = {**self._headers, **headers}
                return await client.request(method, path, params=params, content=data, headers=sent)

        return asyncio.run(send())


def api_options(command: _F) -> _F:
    """Add --api, --token-file, --ca and --config to a command, which gets one argument `api`, an ApiClient, instead."""

    @click.option(
        "--api", "url", envvar="EGRESS_API", metavar="URL", default="", help="Use this API. [env: EGRESS_API]"
    )
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File that holds the token [EGRESS_TOKEN]. On this host root needs none.",
    )
    @click.option(
        "--ca", type=click.Path(path_type=Path), metavar="FILE", help="PEM file of the certificate authority to trust."
    )
    @click.option("--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Config file.")
    @functools.wraps(command)
    def with_api(
        *args: object, url: str, token_file: Path | None, ca: Path | None, config_file: Path | None, **kwargs: object
    ) -> object:
        with ApiClient(url, _token(token_file), ca, load_config(config_file), chosen_case()) as api:
            return command(*args, api=api, **kwargs)

    return with_api  # type: ignore[return-value]


def segment(text: str) -> str:
    """Quote text as one segment of a URL path. Raises InputError if it cannot be one."""
    if "/" in text or text in ("", ".", ".."):
        raise InputError(f"{ascii(text)[:60]} is not a valid id or name")
    return quote(text, safe="")


def _token(file: Path | None) -> str:
    """Read the token from a file, else from EGRESS_TOKEN (empty if unset). Raises InputError if it is not valid."""
    where = "EGRESS_TOKEN" if file is None else str(file)
    try:
        token = os.environ.get(where, "").strip() if file is None else file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"cannot read the token in {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not re.fullmatch(r"[!-~]*", token) or len(token) > MAX_TOKEN or (file is not None and not token):
        raise InputError(f"{where} does not hold a valid token; `egress token create` makes one")
    return token


def _trust(ca: Path | None) -> ssl.SSLContext:
    """Make a TLS context that trusts the authorities in a PEM file; None: those of the system. Raises InputError."""
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise InputError(f"--ca {ca}: {error.strerror or 'no certificates in PEM form'}") from None


def _listens(path: Path) -> bool:
    """Return True if a server listens on the socket. A killed server leaves its socket file behind."""
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _text(value: object) -> str:
    """Format the value of a query parameter: booleans in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problem(answer: httpx.Response) -> EgressError:
    """Convert a problem document (RFC 9457) to an exception with a message of one line."""
    try:
        problem = answer.json()
        text = str(problem.get("detail") or problem["title"])
        places = [_place(each) for each in problem.get("errors", [])]
    except (ValueError, KeyError, AttributeError, TypeError):
        text, places = f"the API answered {answer.status_code} without a reason", []
    if places:
        text = "; ".join(places[:20]) + (f"; and {len(places) - 20} more" if len(places) > 20 else "")
    wrong = answer.status_code in (400, 413, 415, 422)
    return (InputError if wrong else EgressError)(plain(text))


def _place(error: dict[str, str]) -> str:
    """Format an error as `destination: …` or `rule 3: ports: …`; without a place if the whole body is wrong."""
    where = error.get("pointer", "#").removeprefix("#").removeprefix("/") or error.get("parameter", "")
    first, _, rest = where.removeprefix("rules/").partition("/")
    if where.startswith("rules/") and first.isdecimal():
        where = f"rule {int(first) + 1}" + (f": {rest}" if rest else "")
    return f"{where}: {error['detail']}" if where else error["detail"]
