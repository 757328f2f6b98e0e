"""The application over a real database, with clients: root on the unix socket, and tokens of every role."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from api.app import create_app
from egress.config import Api, Config
from egress.store.database.database import open_database, writing
from egress.store.policy import tokens
from egress.store.policy.audit import Actor

ROOT = ("unix:0", 1)
OUTSIDE = ("192.0.2.1", 4711)


class Client:
    """Send requests to the application in this process; safe to share between threads."""

    def __init__(self, app: FastAPI, peer: tuple[str, int] = ROOT, token: str = "") -> None:
        self.app, self.peer = app, peer
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        path = path if path.startswith("/api/") else f"/api/v1{path}"
        headers = {**self.headers, **kwargs.pop("headers", {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=self.peer)
            async with httpx.AsyncClient(transport=transport, base_url="http://egress") as client:
                return await client.request(method, path, headers=headers, **kwargs)

        return asyncio.run(send())

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, json: object = None, **kwargs: Any) -> httpx.Response:
        return self.request("POST", path, **({"json": json} if json is not None else {}), **kwargs)

    def put(self, path: str, json: object, **kwargs: Any) -> httpx.Response:
        return self.request("PUT", path, json=json, **kwargs)

    def patch(self, path: str, json: object, **kwargs: Any) -> httpx.Response:
        return self.request("PATCH", path, json=json, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.request("DELETE", path, **kwargs)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path, run_dir=tmp_path, api=Api(failures=5))


@pytest.fixture
def engine(config: Config, empty_database: Path) -> Iterator[Engine]:
    shutil.copy(empty_database, config.state_dir / "egress.db")
    opened = open_database(config.database_url)
    yield opened
    opened.dispose()


@pytest.fixture
def app(config: Config, engine: Engine) -> FastAPI:
    return create_app(config, engine)


@pytest.fixture
def root(app: FastAPI) -> Client:
    """A client that is root on this host."""
    return Client(app)


@pytest.fixture
def as_role(app: FastAPI, engine: Engine) -> Callable[..., Client]:
    """A client with a fresh token: as_role("editor", "ci-*")."""

    def make(role: str, *agents: str, expires_at: float | None = None) -> Client:
        with writing(engine) as connection:
            _, text = tokens.create(
                connection,
                Actor("test"),
                name=f"a {role}",
                role=role,
                agents=agents or ("*",),
                expires_at=expires_at,
                ts=time.time(),
            )
        return Client(app, OUTSIDE, text)

    return make


def assert_problem(answer: httpx.Response, status: int, *places: str, detail: str = "") -> dict[str, Any]:
    """Check that the answer is a problem document of this status that names these places (pointers or parameters)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["title"] and body["detail"]
    assert detail in body["detail"] + str(body.get("errors", ""))
    assert [each.get("pointer") or each.get("parameter") for each in body.get("errors", [])] == list(places)
    return body
