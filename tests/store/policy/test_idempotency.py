"""Answers kept by key and caller, for a day."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from egress.store.database.database import writing
from egress.store.policy import idempotency
from egress.store.policy.idempotency import LIFE, StoredResponse

NOW = 1_795_446_362.0


def _keep(connection: Connection, key: str, caller: str, ts: float) -> None:
    idempotency.keep(
        connection, key, caller, request="0" * 64, status=201, headers={"etag": '"7"'}, body='{"ü": 1}', ts=ts
    )


def test_an_answer_is_recalled_for_a_day_by_its_caller(engine: Engine) -> None:
    with writing(engine) as connection:
        assert idempotency.recall(connection, "k", "token:a", NOW) is None
        _keep(connection, "k", "token:a", NOW)
        stored = StoredResponse("0" * 64, 201, {"etag": '"7"'}, '{"ü": 1}', NOW)
        assert idempotency.recall(connection, "k", "token:a", NOW + LIFE - 1) == stored
        assert idempotency.recall(connection, "k", "token:a", NOW + LIFE) is None
        assert idempotency.recall(connection, "k", "token:b", NOW) is None
        _keep(connection, "k", "token:b", NOW)
        _keep(connection, "k", "token:a", NOW + LIFE)
        assert idempotency.recall(connection, "k", "token:a", NOW + LIFE) is not None
        assert idempotency.forget_old(connection, NOW + 1) == 1
        assert idempotency.recall(connection, "k", "token:b", NOW) is None


def test_one_that_is_good_is_not_replaced(engine: Engine) -> None:
    with writing(engine) as connection:
        _keep(connection, "k", "token:a", NOW)
    with pytest.raises(IntegrityError), writing(engine) as connection:
        _keep(connection, "k", "token:a", NOW + 1)
