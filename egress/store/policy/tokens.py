"""Bearer tokens of the API: shown once, stored as a hash, limited to some agents; a revocation takes effect at once."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import asdict, dataclass
from hmac import compare_digest

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.errors import InputError
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.rows import decode, decode_first
from egress.store.database.tables import ROLES, tokens
from egress.store.policy.audit import Actor, note

MAX_AGENTS = 64  # globs of one token
MAX_TEXT = 128  # characters of a name or glob

# "egress_", 8 hex digits that name it, 256 random bits in base64url
_TEXT = re.compile(r"egress_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_SECRET_BYTES = 32
_NOBODY = hashlib.sha256(b"").hexdigest()  # compared with if the token is unknown; no secret has this hash


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret."""

    id: str  # 8 hex digits
    name: str
    role: str  # one of ROLES
    agents: tuple[str, ...]  # globs of the agents it may access; ("*",): all
    created: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used: float | None = None  # to the minute


_COLUMNS = [tokens.c[name] for name in Token.__slots__]


def create(
    connection: Connection,
    actor: Actor,
    *,
    name: str,
    role: str,
    agents: tuple[str, ...] = ("*",),
    expires_at: float | None = None,
    ts: float,
) -> tuple[Token, str]:
    """Create a token; returns it and its text (`egress_ID_SECRET`), of which only a hash is stored.

    Times are seconds; `expires_at` None: never. Raises InputError if an argument is not valid.
    """
    _check(name, role, agents, expires_at, ts)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    token = Token(_free_id(connection), name, role, agents, ts, actor.name, expires_at)
    connection.execute(tokens.insert(), asdict(token) | {"hash": _hash(secret)})
    note(connection, actor, ts, "token.create", token.id, None, asdict(token))
    return token, f"egress_{token.id}_{secret}"


def authenticate(connection: Connection, text: str, ts: float) -> Token | None:
    """The token with this text; None if there is none, or if it is revoked or, at `ts` (seconds), expired.

    The use of the token is not stored; `touch` does that.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    row = connection.execute(sa.select(*_COLUMNS, tokens.c.hash).where(tokens.c.id == match[1])).first()
    same = compare_digest(_hash(match[2]), _NOBODY if row is None else row.hash)
    if row is None or not same:
        return None
    (token,) = decode(Token, [row[:-1]])
    over = token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= ts)
    return None if over else token


def listed(connection: Connection) -> tuple[Token, ...]:
    """All tokens, also revoked ones, oldest first."""
    return tuple(decode(Token, connection.execute(sa.select(*_COLUMNS).order_by(tokens.c.created, tokens.c.id))))


def revoke(connection: Connection, actor: Actor, id: str, ts: float) -> Token:  # noqa: A002 - its name
    """Revoke a token and return it. Raises NotFoundError; ConflictError if it was revoked before."""
    old = decode_first(Token, connection.execute(sa.select(*_COLUMNS).where(tokens.c.id == id)))
    if old is None:
        raise NotFoundError(f"there is no token {id}; `egress token list` lists them", id)
    if old.revoked_at is not None:
        raise ConflictError(f"token {id} is already revoked", id)
    connection.execute(tokens.update().where(tokens.c.id == id).values(revoked_at=ts))
    new = Token(**(asdict(old) | {"revoked_at": ts}))
    note(connection, actor, ts, "token.revoke", id, asdict(old), asdict(new))
    return new


def touch(connection: Connection, id: str, ts: float) -> None:  # noqa: A002 - its name
    """Store that a token was used at `ts` (seconds), to the minute: another call in that minute changes nothing."""
    minute = ts // 60 * 60
    older = sa.or_(tokens.c.last_used.is_(None), tokens.c.last_used < minute)
    connection.execute(tokens.update().where(tokens.c.id == id, older).values(last_used=minute))


def _check(name: str, role: str, agents: tuple[str, ...], expires_at: float | None, ts: float) -> None:
    if not _is_text(name):
        raise InputError(f"token name {ascii(name)[:60]} must be 1 to {MAX_TEXT} printable characters")
    if role not in ROLES:
        raise InputError(f"role {ascii(role)[:60]} must be one of {', '.join(ROLES)}")
    if not 0 < len(agents) <= MAX_AGENTS:
        raise InputError(f"a token needs 1 to {MAX_AGENTS} agents: names or globs, * for all")
    for pattern in agents:
        if not _is_text(pattern):
            raise InputError(f"agent {ascii(pattern)[:60]} must be a name or glob of at most {MAX_TEXT} characters")
        if "[^" in pattern:  # databases read it as [!, fnmatch does not: the scope in listings would differ
            raise InputError(f"agent {ascii(pattern)[:60]}: write [!…] for all characters but these")
    if expires_at is not None and expires_at <= ts:
        raise InputError("a token that expires in the past is useless; give a later time")


def _is_text(text: str) -> bool:
    return 0 < len(text) <= MAX_TEXT and text.isprintable()


def _free_id(connection: Connection) -> str:
    while True:
        drawn = secrets.token_hex(4)
        if connection.scalar(sa.select(tokens.c.id).where(tokens.c.id == drawn)) is None:
            return drawn


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
