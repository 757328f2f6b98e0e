"""The shapes of liveness and readiness."""

from __future__ import annotations

from pydantic import BaseModel


class Health(BaseModel):
    """The liveness of the process."""

    status: str


class Readiness(BaseModel):
    """The readiness of the process: ready while the database can be used."""

    status: str
    database: str
