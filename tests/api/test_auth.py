"""Authentication: tokens and roles, scope, expiry, revocation, and root on the unix socket."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from api import auth
from api.app import discovered
from api.auth import PREFIX, PUBLIC, Caller, Failures
from egress.store.database.database import writing
from egress.store.policy import tokens
from egress.store.policy.audit import Actor
from tests.api.conftest import OUTSIDE, Client, assert_problem

READS = ["/allowlist", "/policy/versions", "/policy/diff?from=0"]
RULE = {"action": "allow", "destination": "example.org"}


def test_a_stranger_gets_nothing_but_the_document(app: FastAPI) -> None:
    stranger = Client(app, OUTSIDE)
    answer = stranger.get("/allowlist")
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert_problem(stranger.post("/allowlist", RULE), 401)
    assert_problem(stranger.get("/nowhere"), 401)
    assert stranger.get("/openapi.json").status_code == 200


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Basic YTpi", "egress_00000000_x", "Bearer egress_zz", "Bearer \x7f\x7f", "Bearer é"],
)
def test_a_bad_token(app: FastAPI, header: str) -> None:
    answer = Client(app).get("/allowlist", headers={"Authorization": header.encode("latin-1")})
    assert_problem(answer, 401)


def test_a_token_in_the_address_is_none(app: FastAPI, as_role: Callable[..., Client]) -> None:
    token = as_role("admin").headers["Authorization"].removeprefix("Bearer ")
    assert_problem(Client(app, OUTSIDE).get(f"/allowlist?access_token={token}&token={token}"), 401)


def test_what_the_roles_may(as_role: Callable[..., Client]) -> None:
    expected = {"viewer": (200, 403, 403), "approver": (200, 403, 403), "editor": (200, 201, 403)}
    expected |= {"admin": (200, 201, 200), "gateway": (403, 403, 403)}
    for number, (role, (reads, edits, governs)) in enumerate(expected.items()):
        client = as_role(role)
        assert {client.get(path).status_code for path in READS} == {reads}, role
        assert client.post("/allowlist", {**RULE, "comment": role, "ports": number + 1}).status_code == edits, role
        assert {client.get(path).status_code for path in ("/tokens", "/audit", "/audit/verify")} == {governs}, role
        assert client.get("/policy/current").status_code == 200


def test_no_route_forgets_to_ask_for_a_role() -> None:
    """Each route is public or has a dependency that checks a role."""
    routes = [route for router in discovered() for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 15
    open_ = [f"{PREFIX}{route.path}" for route in routes if not _asks_for_a_role(route.dependant)]
    assert set(open_) <= PUBLIC


def _asks_for_a_role(dependant: Dependant) -> bool:
    made_here = getattr(dependant.call, "__qualname__", "").startswith(auth._at_least.__qualname__)
    return made_here or any(map(_asks_for_a_role, dependant.dependencies))


def test_an_expired_token_opens_nothing(as_role: Callable[..., Client]) -> None:
    client = as_role("viewer", expires_at=time.time() + 0.3)
    assert client.get("/allowlist").status_code == 200
    time.sleep(0.35)
    assert_problem(client.get("/allowlist"), 401, detail="expired")


def test_a_revoked_token_opens_nothing_from_then_on(root: Client, as_role: Callable[..., Client]) -> None:
    client = as_role("editor")
    assert client.get("/allowlist").status_code == 200
    (token,) = root.get("/tokens").json()["items"]
    assert root.delete(f"/tokens/{token['id']}").status_code == 200
    assert_problem(client.get("/allowlist"), 401)


def test_use_is_noted_once_a_minute(engine: Engine, as_role: Callable[..., Client]) -> None:
    client = as_role("viewer")
    begun = time.time()
    for _ in range(3):
        client.get("/allowlist")
    with engine.connect() as connection:
        (token,) = tokens.listed(connection)
    assert token.last_used is not None and begun - 60 <= token.last_used <= time.time()


def test_root_on_the_unix_socket_needs_no_token(app: FastAPI) -> None:
    assert Client(app, ("unix:0", 1)).get("/tokens").status_code == 200
    for peer in ("unix:1000", "unix:agent:0", "unix:", "unix:00", "unix:-0"):
        assert_problem(Client(app, (peer, 1)).get("/allowlist"), 403, detail="token")
    for peer in ("", "UNIX:0", "127.0.0.1", "::1", "0"):
        assert_problem(Client(app, (peer, 1)).get("/allowlist"), 401)


def test_headers_do_not_make_a_client_local(app: FastAPI) -> None:
    claims = {"X-Forwarded-For": "unix:0", "Forwarded": "for=unix:0", "X-Real-IP": "unix:0", "Host": "unix:0"}
    assert_problem(Client(app, OUTSIDE).get("/allowlist", headers=claims), 401)


def test_a_token_counts_on_the_unix_socket_too(app: FastAPI, as_role: Callable[..., Client]) -> None:
    headers = as_role("viewer").headers
    assert Client(app, ("unix:1000", 1)).get("/allowlist", headers=headers).status_code == 200
    assert_problem(Client(app, ("unix:0", 1)).post("/allowlist", RULE, headers=headers), 403, detail="viewer")


def test_who_fails_too_often_waits(app: FastAPI, as_role: Callable[..., Client]) -> None:
    good, stranger = as_role("viewer"), Client(app, OUTSIDE)
    for _ in range(5):
        assert_problem(stranger.get("/allowlist"), 401)
    answer = stranger.get("/allowlist")
    assert_problem(answer, 429)
    assert 0 < int(answer.headers["retry-after"]) <= 61
    assert good.get("/allowlist").status_code == 200, "the same address with a good token"
    assert_problem(Client(app, ("192.0.2.2", 1)).get("/allowlist"), 401)


def test_failures_are_forgotten_and_bounded() -> None:
    now = 0.0
    failures = Failures(2, lambda: now)
    assert [failures.add("192.0.2.1") for _ in range(3)] == [0, 0, 61]
    now = 60.0
    assert failures.add("192.0.2.1") == 0
    for number in range(3):
        failures.add(f"2001:db8::{number:x}")
    assert failures.add("2001:db8::ffff") > 0, "one /64 is one party"
    for number in range(auth.MAX_ADDRESSES * 2):
        failures.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures._seen) == auth.MAX_ADDRESSES


@pytest.mark.parametrize(
    "globs, selector, covered",
    [
        (("*",), "anything*", True),
        (("*",), "label:gpu", True),
        (("ci-*",), "ci-*", True),
        (("ci-*",), "ci-7", True),
        (("ci-*",), "ci-7*", False),
        (("ci-*",), "*", False),
        (("ci-*",), "label:ci", False),
        (("ci-*",), "ci-[0-9]", False),
        (("ci-*",), "ci-?", False),
        (("a", "b"), "b", True),
        (("a",), "A", False),
        ((), "a", False),
    ],
)
def test_what_a_scope_covers(globs: tuple[str, ...], selector: str, covered: bool) -> None:
    assert Caller(Actor("t"), "editor", globs).covers(selector) is covered


@pytest.mark.slow
@given(st.text(max_size=90))
def test_no_text_is_a_token(engine_text: str) -> None:
    """The store returns None for any text that a header can hold; it holds no token here."""
    import sqlalchemy as sa

    from egress.store.database.tables import metadata

    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert tokens.authenticate(connection, engine_text, 0.0) is None
    engine.dispose()


def test_writing_is_not_needed_to_read(engine: Engine, as_role: Callable[..., Client]) -> None:
    """Another writer holds the lock: a token that was used this minute still reads."""
    client = as_role("viewer")
    assert client.get("/allowlist").status_code == 200
    with writing(engine):
        assert client.get("/allowlist").status_code == 200
