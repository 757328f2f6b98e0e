"""Tokens: shown once, never stored; not valid once revoked or expired; hostile text is not valid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection, Engine

from egress.errors import InputError
from egress.store.database import tables
from egress.store.database.database import writing
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.policy import audit, tokens
from egress.store.policy.audit import Actor
from egress.store.policy.tokens import Token
from tests.examples import examples

ROOT = Actor("uid:0 (root)", "req-1")
NOW = 1_795_446_362.0


def _create(connection: Connection, **wanted: object) -> tuple[Token, str]:
    return tokens.create(connection, ROOT, **({"name": "ci", "role": "editor", "ts": NOW} | wanted))  # type: ignore[arg-type]


def test_the_text_authenticates_until_it_is_revoked(engine: Engine) -> None:
    with writing(engine) as connection:
        token, text = _create(connection, agents=("train-*",))
        assert token == Token(token.id, "ci", "editor", ("train-*",), NOW, "uid:0 (root)")
        assert tokens.authenticate(connection, text, NOW + 1) == token
        other, other_text = _create(connection, name="other")
        assert tokens.authenticate(connection, f"egress_{other.id}_{text[16:]}", NOW) is None
        revoked = tokens.revoke(connection, ROOT, token.id, NOW + 2)
        assert revoked == replace(token, revoked_at=NOW + 2)
        assert tokens.authenticate(connection, text, NOW + 1) is None
        assert tokens.authenticate(connection, other_text, NOW) == other
        assert set(tokens.listed(connection)) == {revoked, other}
        with pytest.raises(ConflictError, match="already revoked"):
            tokens.revoke(connection, ROOT, token.id, NOW + 3)
        with pytest.raises(NotFoundError, match="no token 00000000"):
            tokens.revoke(connection, ROOT, "00000000", NOW + 3)


def test_it_expires_to_the_second(engine: Engine) -> None:
    with writing(engine) as connection:
        token, text = _create(connection, expires_at=NOW + 60)
        assert tokens.authenticate(connection, text, NOW + 59.9) == token
        assert tokens.authenticate(connection, text, NOW + 60) is None


def test_the_secret_is_nowhere_in_the_database(engine: Engine) -> None:
    with writing(engine) as connection:
        _, text = _create(connection)
        stored = [str(row) for table in (tables.tokens, tables.audit) for row in connection.execute(sa.select(table))]
    assert len(text) == 59 and stored and all(text[16:] not in row for row in stored)


def test_its_use_is_kept_to_the_minute(engine: Engine) -> None:
    with writing(engine) as connection:
        token, _ = _create(connection)
        for used in (NOW + 61, NOW):
            tokens.touch(connection, token.id, used)
        (listed,) = tokens.listed(connection)
        assert listed.last_used == (NOW + 61) // 60 * 60


def test_what_was_done_is_in_the_audit(engine: Engine) -> None:
    with writing(engine) as connection:
        token, _ = _create(connection)
        tokens.revoke(connection, ROOT, token.id, NOW + 1)
        revoked, created = audit.entries(connection, limit=9)
    assert (created.action, created.target, created.before) == ("token.create", token.id, None)
    assert (revoked.action, revoked.after["revoked_at"], revoked.request_id) == ("token.revoke", NOW + 1, "req-1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"role": "root"},
        {"agents": ()},
        {"agents": ("",)},
        {"agents": ("a",) * 65},
        {"agents": ("[^a]*",)},
        {"expires_at": NOW},
    ],
)
def test_wrong_tokens_are_refused(engine: Engine, wrong: dict[str, object]) -> None:
    with writing(engine) as connection:
        with pytest.raises(InputError):
            _create(connection, **wrong)
        assert tokens.listed(connection) == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(80), deadline=None)
@given(text=st.text(max_size=80) | st.from_regex(r"egress_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", fullmatch=True))
def test_no_text_breaks_authentication(engine: Engine, text: str) -> None:
    with engine.connect() as connection:
        assert tokens.authenticate(connection, text, NOW) is None
