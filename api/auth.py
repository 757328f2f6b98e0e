"""Authentication and authorisation: bearer tokens, and on the unix socket root by its user id.

The gate (api/gate.py) authenticates every request, except to `PUBLIC` paths, before any other code handles it. Routes
require a role through the dependencies at the end of this file; a route without one is open to every role.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from api.database import Database
from api.problems import ProblemError
from egress.store.database.database import writing
from egress.store.database.handles import DBAPIError, Engine
from egress.store.policy import tokens
from egress.store.policy.audit import Actor

PREFIX = "/api/v1"
PUBLIC = frozenset({f"{PREFIX}/openapi.json", f"{PREFIX}/healthz", f"{PREFIX}/readyz"})
UNIX = "unix:"  # prefix of the client address on the unix socket; no IP address begins so
TOUCH_SECONDS = 60.0  # between two updates of a token's last_used
MAX_ADDRESSES = 4096  # addresses whose failures are counted; beyond it the one counted longest is dropped

_RANK = {"viewer": 1, "approver": 2, "editor": 3, "admin": 4}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)

log = logging.getLogger("egress.api")


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of a request. Its scope is the agents that match one of the globs `agents`."""

    actor: Actor
    role: str
    agents: tuple[str, ...] = ("*",)

    @property
    def unlimited(self) -> bool:
        """True if the scope has all agents."""
        return "*" in self.agents

    def as_author(self) -> str:
        """Return the caller's name as the author of a rule: at most 128 printable characters."""
        return "".join(char for char in self.actor.name if char.isprintable())[:128]

    def sees(self, agent: str) -> bool:
        """Return True if the agent is within the caller's scope."""
        return any(fnmatchcase(agent, glob) for glob in self.agents)

    def covers(self, selector: str) -> bool:
        """Return True if every agent that this selector of a rule or token can match is within the caller's scope."""
        if self.unlimited or selector in self.agents:
            return True
        return _NAME.fullmatch(selector) is not None and self.sees(selector)

    def check(self, selector: str) -> None:
        """Check that the scope covers the selector of a rule or token. Raises ProblemError (403)."""
        if not self.covers(selector):
            raise ProblemError(403, f"agent {selector[:128]!r} is outside your scope: {', '.join(self.agents)}")

    def check_unlimited(self, what: str) -> None:
        """Check that the scope has all agents; `what` names the request. Raises ProblemError (403)."""
        if not self.unlimited:
            raise ProblemError(403, f"{what} concerns all agents; your scope is {', '.join(self.agents)}")


class Failures:
    """Counts failed authentications per minute and address (IPv6: per /64), of at most MAX_ADDRESSES addresses."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address → start of its minute, failures

    def add(self, client: str) -> int:
        """Count a failure of a client. Returns 0 for the first `limit` of a minute, else the seconds until its end."""
        now, address = self._clock(), _subnet(client)
        start, count = self._seen.get(address, (now, 0))
        if now - start >= 60.0:
            start, count = now, 0
        self._seen[address] = start, count + 1
        while len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        return int(start + 60.0 - now) + 1 if count >= self._limit else 0


class Authenticator:
    """Authenticates requests. Each request looks its token up in the database, so a revocation takes effect at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures = Failures(database.config.api.failures)
        self._touched: dict[str, float] = {}  # token id → time of the last attempt to store its use

    def caller(self, scope: Scope) -> Caller:
        """Authenticate a request by its token; without one, root on the unix socket. Blocks: call it in a thread.

        Stores the use of the token, at most once a minute. Raises ProblemError: 401, 403, 429, 503.
        """
        client = str((scope.get("client") or ("",))[0])
        request_id = scope["state"]["request_id"]
        given = Headers(scope=scope).getlist("authorization")
        if not given and client.startswith(UNIX):
            return _peer(client, request_id)
        if not given:
            raise self._failed(client, "a bearer token is needed: Authorization: Bearer egress_…")
        scheme, _, secret = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not secret.strip():
            raise self._failed(client, "the Authorization header must be: Bearer egress_…")
        token = self._token(secret.strip())
        if token is None:
            raise self._failed(client, "the token is unknown, expired or revoked", ', error="invalid_token"')
        return Caller(Actor(f"token:{token.id} ({token.name})", request_id), token.role, token.agents)

    def _token(self, secret: str) -> tokens.Token | None:
        """Return the valid token with this secret, else None; store its use, at most once in TOUCH_SECONDS."""
        engine, now = self._database.engine(), time.time()
        with engine.connect() as connection:
            token = tokens.authenticate(connection, secret, now)
        if token is not None and now - max(token.last_used or 0.0, self._touched.get(token.id, 0.0)) >= TOUCH_SECONDS:
            self._touched[token.id] = now
            _touch(engine, token.id, now)
        return token

    def _failed(self, client: str, detail: str, more: str = "") -> ProblemError:
        """Count a failure of the client; make the response: 401, or 429 beyond the limit."""
        wait = self._failures.add(client)
        if wait:
            log.warning("too many failed authentications from %s", client)
            return ProblemError(429, "too many failed authentications; wait", headers={"Retry-After": str(wait)})
        return ProblemError(401, detail, headers={"WWW-Authenticate": f'Bearer realm="egress"{more}'})


def _peer(client: str, request_id: str) -> Caller:
    """Return root, an admin of all agents, for `unix:0`. Raises ProblemError (403) for any other user."""
    uid = client.removeprefix(UNIX)
    if uid != "0":
        raise ProblemError(403, f"user id {uid} needs a token here; only root on this host needs none")
    return Caller(Actor("uid:0 (root)", request_id), "admin")


def _touch(engine: Engine, token_id: str, now: float) -> None:
    """Store the time of a token's use; log a warning if the database cannot be written."""
    try:
        with writing(engine) as connection:
            tokens.touch(connection, token_id, now)
    except DBAPIError as error:  # reads still work on a read-only database
        log.warning("cannot store the use of token %s: %s", token_id, error.orig)


def _subnet(client: str) -> str:
    """Return the key of a client's failures: its IPv4 address, or the IPv6 /64, which one client may control."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else client


# --- dependencies of routes -------------------------------------------------------------------------------

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="`egress token create` makes one.")


def _caller(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> Caller:
    found: Caller = request.state.caller
    return found


def _at_least(role: str, *also: str) -> Callable[[Caller], Awaitable[Caller]]:
    """Make a dependency that returns the caller; 403 unless its role is `role`, a higher one, or one of `also`."""

    async def allowed(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if caller.role not in also and _RANK.get(caller.role, 0) < _RANK[role]:
            raise ProblemError(403, f"this needs role {role}; yours is {caller.role}")
        return caller

    return allowed


Viewer = Annotated[Caller, Depends(_at_least("viewer"))]
Approver = Annotated[Caller, Depends(_at_least("approver"))]
Editor = Annotated[Caller, Depends(_at_least("editor"))]
Admin = Annotated[Caller, Depends(_at_least("admin"))]
Reporter = Annotated[Caller, Depends(_at_least("editor", "reporter"))]
ViewerOrGateway = Annotated[Caller, Depends(_at_least("viewer", "gateway"))]
