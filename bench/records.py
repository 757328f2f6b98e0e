"""Measure how fast records are stored, and questions on millions of flows answered: `python -m bench.records`.

SQL statements make most flows: few of the agents, destinations and names have most of them, over the last 30 days. The
recorder stores the timed records, from a journal. All are removed at the end.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from bench.plans import accesses, explained
from bench.questions import QUESTIONS, Known, Question
from egress.config import Config
from egress.records.eve import line
from egress.store.database import days
from egress.store.database.database import open_database, storing
from egress.store.database.tables import DAYED, flows
from egress.store.recording.recorder import Recorder
from tests.store import samples
from tests.store.postgres import Server

SPAN = 30  # days
CHUNK = 2_500_000  # flows made in a transaction
BATCHES = 40_000  # records stored under the clock
SECONDS, LEAST, MOST = 20.0, 5, 50  # time for a question, and bounds of its repetitions
# Settings for a server of this size, see docs/operations.md.
TUNED = {
    **dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes", "autovacuum"), "on"),
    "shared_buffers": "2GB",
    "work_mem": "32MB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
}

# Each value is drawn by multiplications and remainders; ranks are squared, so that the low ones have most.
_FLOW = """
    SELECT {hex} AS flow_id, 'agent-' || (a * a / 2000) AS agent, start, start + 100000 + n % 60000000 AS updated,
        start + 90000 + n % 60000000 AS "end", 'closed' AS state, 'out' AS direction,
        CASE WHEN p < 12 THEN 'udp' ELSE 'tcp' END AS proto, '10.77.' || (a * a / 2000) || '.2' AS src,
        32768 + n % 28000 AS sport, '198.' || (d * d / 9000000 % 100) || '.' || (d * d / 35000 % 256) || '.'
        || (d % 254 + 1) AS dst, CASE WHEN p < 12 THEN 53 WHEN p < 13 THEN 22 WHEN p < 15 THEN 80 ELSE 443 END AS dport,
        '1:wCb3OG7yAFWelaUydu0D+125CLM=' AS community_id,
        CASE WHEN p < 12 THEN 'dns' WHEN p < 13 THEN 'ssh' WHEN p < 15 THEN 'http' ELSE 'tls' END AS app_proto,
        'h' || (d * d / 9000) || CASE WHEN d % 50 = 0 THEN '.example.com' ELSE '.example.net' END AS server_name,
        CASE WHEN p = 99 THEN 'reject' ELSE 'accept' END AS action, CASE WHEN p = 99 THEN 'default' ELSE 'rule' END
        AS reason, CASE WHEN p = 99 THEN '' ELSE 'r' || (d * d / 90000 % 997) END AS rule_id, 7 AS policy_version,
        'enforce' AS mode, 4 + n % 40 AS packets_out, 4 + n % 60 AS packets_in, 400 + s * s AS bytes_out,
        800 + s * s * 3 AS bytes_in, 0 AS unseen_bytes, '[]' AS names
    FROM (
        SELECT n, {begin} + CAST(n * {step} AS bigint) AS start, h * 200 AS h, x / 7 % 1000 AS a,
            x / 7001 % 30000 AS d, x * 16807 % 2147483647 / 3 % 100 AS p, x * 69621 % 2147483647 / 3 % 3000 AS s
        FROM (SELECT n, h, (h % 2147483629 + 1) * 48271 % 2147483647 AS x FROM
            (SELECT n, n * 549755813881 % 36028797018963913 AS h FROM g) AS spread) AS mixed
    ) AS drawn
"""
_NUMBERS = {
    "sqlite": "WITH RECURSIVE g (n) AS (SELECT {low} UNION ALL SELECT n + 1 FROM g WHERE n + 1 < {high})",
    "postgresql": "WITH g (n) AS (SELECT generate_series(CAST({low} AS bigint), {high} - 1))",
}
_HEX = {"sqlite": "printf('%016x', h)", "postgresql": "lpad(to_hex(h), 16, '0')"}
_FINDING = """
    INSERT INTO findings (finding_id, flow_id, agent, time, signature, severity, technique, summary, evidence, effect,
        action, mode, proto, src, sport, dst, dport, community_id, rule_id, policy_version)
    SELECT flow_id, flow_id, agent, start + 50000, CASE WHEN sport % 3 = 0 THEN 'mining.stratum' WHEN sport % 3 = 1
        THEN 'ssh.unusual-port' ELSE 'beacon.timing' END, 'high', 'T1496', 'made for a measurement', {bytes}, 'flow',
        'reject', 'enforce', proto, src, sport, dst, dport, community_id, rule_id, policy_version
    FROM flows WHERE action = 'reject' AND sport % 10 = 0
"""
_EVIDENCE = """
    INSERT INTO evidence (finding_id, flow_id, agent, time, packets)
    SELECT finding_id, flow_id, agent, time, {packets} FROM findings
"""
_PACKETS = {
    "sqlite": ("x'00ff'", "zeroblob(0)"),
    "postgresql": ("decode('00ff', 'hex')", "decode('', 'hex')"),
}


def fill(engine: Engine, rows: int, now: float) -> None:
    """Make `rows` flows, and findings with evidence for a thousandth of them."""
    begin, step = (now - SPAN * 86400) * 1e6, SPAN * 86400e6 / rows
    kind = engine.dialect.name
    names = ", ".join(f'"{column.name}"' for column in flows.columns)
    for low in range(0, rows, CHUNK):
        numbers = _NUMBERS[kind].format(low=low, high=min(low + CHUNK, rows))
        drawn = _FLOW.format(hex=_HEX[kind], begin=int(begin), step=step)
        with storing(engine) as connection:
            if kind == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            # As text, for psycopg would take a % for a parameter.
            made = f"{numbers} INSERT INTO flows ({names}) SELECT * FROM ({drawn}) AS made"  # noqa: S608 - our own
            connection.execute(sa.text(made))
        _say(f"{kind}: {min(low + CHUNK, rows):,} flows")
    evidence, packets = _PACKETS[kind]
    with storing(engine) as connection:
        connection.execute(sa.text(_FINDING.format(bytes=evidence)))
        connection.execute(sa.text(_EVIDENCE.format(packets=packets)))


@contextmanager
def without_indexes(engine: Engine, now: float) -> Iterator[None]:
    """Drop the indexes, and create them again at the end: filling the tables takes minutes instead of hours.

    On PostgreSQL the partitions for the days are made first.
    """
    if engine.dialect.name == "sqlite":  # for the one connection that its pool makes
        plain = engine.raw_connection()
        plain.cursor().execute("PRAGMA cache_size = -4000000")
        plain.cursor().execute("PRAGMA synchronous = OFF")
        plain.close()
    indexes = [index for table in DAYED for index in table.indexes]
    with storing(engine) as connection:
        for index in indexes:
            index.drop(connection)
        if engine.dialect.name == "postgresql":
            today = int(now // 86400)
            for table in DAYED:
                days.ensure(connection, table, range(today - SPAN, today + 2), 10.0)
    yield
    for index in indexes:
        with storing(engine) as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            index.create(connection)
        _say(f"{engine.dialect.name}: {index.name}")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "SELECT 1")


def stored_a_second(config: Config, now: float) -> tuple[float, int]:
    """Measure how many records per second the recorder stores, half of them later records of known flows.

    Returns the rate, and the number of records stored.
    """
    config.journal_dir.mkdir(exist_ok=True)
    made = [samples.numbered(number + (1 << 60), start=now + number / 1000, updated=now + number / 1000)
            for number in range(BATCHES // 2)]  # fmt: skip
    later = [replace(flow, updated=flow.updated + 20, packets_out=9) for flow in made]
    with (config.journal_dir / "worker-0-1.jsonl").open("wb") as file:
        file.writelines(map(line, [*made, *later]))
    recorder = Recorder(config)
    began = time.perf_counter()
    count = recorder.run_once()
    spent = time.perf_counter() - began
    recorder.close()
    return count / spent, count


def times(engine: Engine, question: Question, known: list[Known]) -> list[float]:
    """Measure a question repeatedly, about other records each time; return the milliseconds, sorted."""
    spent: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(spent) < MOST and (len(spent) < LEAST or time.perf_counter() < until):
        began = time.perf_counter()
        question.ask(engine, known[len(spent) % len(known)])
        spent.append((time.perf_counter() - began) * 1000)
    return sorted(spent)


def known_things(engine: Engine, now: float) -> list[Known]:
    """Choose stored records to ask about: those of the first findings by id."""
    asked = sa.text("""
        SELECT flows.agent, flows.dst, flows.flow_id, finding_id FROM findings JOIN flows USING (flow_id)
        ORDER BY finding_id LIMIT 25
    """)
    with engine.connect() as connection:
        rows = connection.execute(asked).all()
    return [Known(now, row[0], row[1], row[2], row[3], f"r{number * 31}") for number, row in enumerate(rows)]


def measure(config: Config, rows: int, shown: Callable[[Engine], str], *, plans: bool) -> None:
    """Fill a database with `rows` flows, measure the recorder and each question, and print a table.

    `shown` writes the version and size of the database; `plans`: print the plans, too.
    """
    now = time.time()
    engine = open_database(config.database_url)
    kind = engine.dialect.name
    began = time.perf_counter()
    with without_indexes(engine, now):
        fill(engine, rows, now)
    _say(f"{kind}: filled in {time.perf_counter() - began:.0f} s")
    engine.dispose()
    engine = open_database(config.database_url)
    rate, count = stored_a_second(config, now)
    print(f"\n{kind} {shown(engine)}: {rows:,} flows; {rate:,.0f} records/s stored by the recorder ({count:,})\n")
    print("| question | times | p50 ms | p95 ms |\n|---|---|---|---|")
    known = known_things(engine, now)
    for question in QUESTIONS:
        spent = times(engine, question, known)
        p50, p95 = spent[len(spent) // 2], spent[min(len(spent) - 1, round(len(spent) * 0.95))]
        print(f"| `{question.name}` | {len(spent)} | {p50:,.1f} | {p95:,.1f} |", flush=True)
    if plans:
        show_plans(engine, known[0])
    engine.dispose()


def show_plans(engine: Engine, known: Known) -> None:
    """Print the steps by which the database reads the rows of each question, as docs/database.md has them."""
    print()
    for question in QUESTIONS:
        steps = [step for _, plan in explained(engine, question, known) for step in plan]
        print(f"    {question.name}")
        for number, step in enumerate(accesses(steps)):
            print(f"      {'' if number else engine.dialect.name:<12}{step}")


def _say(text: str) -> None:
    """Print progress on stderr."""
    print(f"# {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _size(engine: Engine) -> str:
    """Write the version of the database and its size."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            size = connection.scalar(sa.text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
            version = connection.scalar(sa.text("SELECT sqlite_version()"))
        else:
            size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
            version = connection.scalar(sa.text("SHOW server_version"))
    return f"{version}, {(size or 0) / 1e9:.2f} GB"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.records", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="flows in the database (default 1000000)")
    parser.add_argument("--postgresql", action="store_true", help="in PostgreSQL, on a server of its own")
    parser.add_argument("--plans", action="store_true", help="also print the database's plan for each question")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="egress-bench-"))
    server = None
    try:
        database = ""
        if options.postgresql:
            server = Server(False, **TUNED)
            database = server.new()
        measure(Config(state_dir=directory, database=database), options.rows, _size, plans=options.plans)
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
