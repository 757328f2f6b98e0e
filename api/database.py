"""The application's database, opened by the first request that needs it. If that fails, the next one tries again."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import Depends, Request

from api.problems import unavailable
from egress.config import Config
from egress.errors import EgressError
from egress.store.database.database import explain, open_database, require_schema
from egress.store.database.handles import DBAPIError, Engine


class Database:
    """Opens and keeps the database of one application, or uses the given engine. Thread-safe."""

    def __init__(self, config: Config, engine: Engine | None = None) -> None:
        self.config = config
        self._engine = engine
        self._given = engine is not None
        self._lock = threading.Lock()

    def engine(self) -> Engine:
        """Return the engine; open the database if necessary. Raises ProblemError (503).

        A missing database is created, unless a gateway has run on this host.
        """
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    try:
                        # If a gateway has run here, a missing database was moved: a new one would have no agents.
                        known = self.config.policy_snapshot.exists()
                        self._engine = open_database(self.config.database_url, create=not known, migrate=False)
                    except EgressError as error:
                        raise unavailable(str(error)) from None
        return self._engine

    def check(self) -> None:
        """Check that the database can be read and has this program's schema. Raises ProblemError (503)."""
        engine = self.engine()
        try:
            with engine.connect() as connection:
                require_schema(connection)
        except EgressError as error:
            raise unavailable(str(error)) from None
        except DBAPIError as error:
            raise unavailable(f"cannot use the database: {explain(error)}") from None

    def close(self) -> None:
        """Close the database that this object opened; not an engine that was given."""
        if self._engine is not None and not self._given:
            self._engine.dispose()
            self._engine = None


def database(request: Request) -> Engine:
    """Return the engine (a dependency of routes). Raises ProblemError (503) while the database is unavailable."""
    held: Database = request.app.state.database
    return held.engine()


def configuration(request: Request) -> Config:
    """Return the application's configuration (a dependency of routes)."""
    held: Database = request.app.state.database
    return held.config


Store = Annotated[Engine, Depends(database)]
Settings = Annotated[Config, Depends(configuration)]
