"""The gateway's database: away, back, and replaced by another."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from egress.errors import EgressError, InputError
from egress.gateway.supervisor.database.link import DatabaseAwayError, DatabaseLink
from egress.model import Action, Rule
from egress.store.database.database import open_database, writing
from egress.store.policy import audit, ruleset
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit


def add(name: str) -> Callable[[Connection], object]:
    rule = Rule(name, Action.ACCEPT, comment=name, protocol="tcp", ports=((len(name), 9),))
    return lambda connection: Edit(connection, Actor("uid:0 (root)"), time.time()).add((rule,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "egress.db"


@pytest.fixture
def link(path: Path, empty_database: Path) -> DatabaseLink:
    shutil.copy(empty_database, path)
    made = DatabaseLink(f"sqlite:///{path}")
    made.open(create=True)
    return made


def test_it_sees_what_others_commit_and_only_then(path: Path, link: DatabaseLink) -> None:
    assert not link.changed()
    other = open_database(f"sqlite:///{path}", create=False)
    with writing(other) as connection:
        add("one")(connection)
    other.dispose()
    assert link.changed()
    assert not link.changed()
    assert asyncio.run(link.read(ruleset.current)) == 1
    link.close()


def test_it_is_not_made_in_place_of_one_that_is_gone(path: Path) -> None:
    link = DatabaseLink(f"sqlite:///{path}")
    with pytest.raises(DatabaseAwayError, match=str(path)):
        link.open(create=False)
    assert not path.exists()
    assert not link.ok
    assert link.since is not None
    assert time.time() - 5 < link.since <= time.time()
    with pytest.raises(DatabaseAwayError, match="the database is away: "):
        asyncio.run(link.read(ruleset.current))
    link.close()


def test_moved_away_and_brought_back(path: Path, link: DatabaseLink) -> None:
    asyncio.run(link.write(add("one")))
    path.rename(path.with_name("hidden"))
    assert not link.changed()
    assert not link.ok
    assert "is missing" in link.error
    since = link.since
    with pytest.raises(DatabaseAwayError):
        link.open(create=False, version=1, entry=1)
    assert link.since == since
    path.with_name("hidden").rename(path)
    link.open(create=False, version=1, entry=1)
    assert (link.ok, link.since, link.error) == (True, None, "")
    assert asyncio.run(link.read(ruleset.current)) == 1
    link.close()


def test_damaged_while_it_is_open(path: Path, link: DatabaseLink) -> None:
    link.close()
    path.write_bytes(b"rubbish" * 4096)
    with pytest.raises(DatabaseAwayError):
        link.open(create=False)
    link.close()


def test_one_that_knows_less_is_not_taken(path: Path, link: DatabaseLink) -> None:
    asyncio.run(link.write(add("one")))
    known = asyncio.run(link.read(audit.latest))
    for version, entry in ((2, known), (1, known + 1)):
        with pytest.raises(DatabaseAwayError, match="it is older than the policy in force here"):
            link.open(create=False, version=version, entry=entry)
        assert not link.ok
    link.open(create=False, version=1, entry=known)
    assert link.ok
    link.close()


def test_what_a_write_refuses_is_undone_and_the_database_stays(link: DatabaseLink) -> None:
    asyncio.run(link.write(add("one")))

    def twice(connection: Connection) -> None:
        add("other")(connection)
        add("one")(connection)

    with pytest.raises(EgressError) as refused:
        asyncio.run(link.write(twice))
    assert not isinstance(refused.value, DatabaseAwayError)
    assert link.ok
    assert asyncio.run(link.read(ruleset.current)) == 1
    link.close()


def test_one_that_a_newer_egress_has_migrated_is_away(path: Path, link: DatabaseLink) -> None:
    asyncio.run(link.write(add("one")))
    newer = open_database(f"sqlite:///{path}")
    with newer.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'next'")
    newer.dispose()
    for work in (link.write(add("two")), link.store(add("three"))):
        with pytest.raises(DatabaseAwayError):
            asyncio.run(work)
    assert "a newer egress has migrated the database (schema next): upgrade this one too" in link.error
    assert _versions(path) == [1]
    link.close()


def _versions(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as plain:
        return [row[0] for row in plain.execute("SELECT version FROM policies")]


def test_a_url_of_no_database_is_the_callers_fault() -> None:
    with pytest.raises(InputError):
        DatabaseLink("mysql://localhost/egress").open(create=True)


def test_one_whose_audit_trail_was_rewritten_is_not_taken(path: Path, link: DatabaseLink) -> None:
    asyncio.run(link.write(add("one")))
    entry, head = asyncio.run(link.read(audit.head))
    link.open(create=False, version=1, entry=entry, head=head)
    with pytest.raises(DatabaseAwayError, match=rf"entry {entry} is not the one that was seen by this gateway"):
        link.open(create=False, version=1, entry=entry, head="0" * 64)
    link.open(create=False, version=1, entry=entry, head="")  # a snapshot of an older version has none
    link.close()
