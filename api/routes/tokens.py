"""/tokens: creates, lists and revokes the tokens of callers; for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse, Response

from api.auth import PREFIX, Admin, Caller
from api.database import Store
from api.edits import Edits, Reply
from api.paging import Cursor, Limit, Page, decode, page
from api.problems import wrong_field
from api.shapes.tokens import TokenIn, TokenMade, TokenOut, token_out
from egress.errors import InputError
from egress.policy.ruletext import parse_expiry
from egress.store.database.errors import NotFoundError
from egress.store.database.handles import Connection
from egress.store.policy import tokens

router = APIRouter(prefix="/tokens", tags=["tokens"])

TokenId = Annotated[str, Path(pattern="^[0-9a-f]{8}$", description="The public part: 8 hex digits.")]


@router.get("", response_model=Page[TokenOut], summary="All tokens, oldest first")
def list_tokens(caller: Admin, engine: Store, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Includes revoked and expired tokens, but no secrets. An admin with a limited scope gets the tokens within it."""
    after = decode(cursor, float, str)
    with engine.connect() as connection:
        found = [each for each in tokens.listed(connection) if _within(caller, each.agents)]
    later = [each for each in found if after is None or (each.created, each.id) > after]
    shown, following = page(later, limit, lambda each: [each.created, each.id])
    return JSONResponse({"items": [token_out(each) for each in shown], "next": following})


@router.post("", response_model=TokenMade, status_code=201, summary="Create a token")
def create_token(body: TokenIn, caller: Admin, edits: Edits) -> Response:
    """Only this response contains the secret. The scope must be within the caller's."""
    agents = tuple(body.agents) if body.agents is not None else caller.agents
    for selector in agents:
        caller.check(selector)
    expires_at = _expiry(body.expires, edits.ts)

    def change(connection: Connection) -> Reply:
        try:
            made, secret = tokens.create(
                connection, caller.actor, name=body.name, role=body.role, agents=agents, expires_at=expires_at,
                ts=edits.ts,
            )  # fmt: skip
        except InputError as error:
            raise wrong_field("", str(error)) from None
        shown = token_out(made)
        kept = shown | {"token": None}
        location = f"{PREFIX}/tokens/{made.id}"
        return Reply(201, shown | {"token": secret}, location=location, kept=kept)

    return edits.commit(change)


@router.get("/{token_id}", response_model=TokenOut, summary="One token")
def get_token(token_id: TokenId, caller: Admin, engine: Store) -> Response:
    with engine.connect() as connection:
        return JSONResponse(token_out(_get_or_404(connection, caller, token_id)))


@router.delete("/{token_id}", response_model=TokenOut, summary="Revoke a token")
def revoke_token(token_id: TokenId, caller: Admin, edits: Edits) -> Response:
    """The token stops working at once, and stays listed as revoked. 409 if it is revoked already."""

    def change(connection: Connection) -> Reply:
        _get_or_404(connection, caller, token_id)
        return Reply(200, token_out(tokens.revoke(connection, caller.actor, token_id, edits.ts)))

    return edits.commit(change)


def _get_or_404(connection: Connection, caller: Caller, token_id: str) -> tokens.Token:
    """Return a token whose scope is within the caller's. Raises NotFoundError."""
    for each in tokens.listed(connection):
        if each.id == token_id and _within(caller, each.agents):
            return each
    raise NotFoundError(f"there is no token {token_id}", token_id)


def _within(caller: Caller, agents: tuple[str, ...]) -> bool:
    """Return True if a token for these agents is within the caller's scope."""
    return all(map(caller.covers, agents))


def _expiry(text: str, now: float) -> float | None:
    """Return the end of a lifetime in seconds since the epoch; None: forever. Raises ProblemError (422)."""
    try:
        expires_at, once = parse_expiry(text, now)
    except (ValueError, OverflowError):
        once, expires_at = True, None
    if once:
        raise wrong_field("expires", "must be a duration (1h, 30d, 4w), an instant with its time zone, or forever")
    return expires_at
