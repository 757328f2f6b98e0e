"""A real PostgreSQL server for the tests: private, on a free port; it ends with the process that started it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.ports import free_port

PASSWORD = "not/a secret@all"  # what a URL must quote
PLACES = "/usr/lib/postgresql/*/bin"
SECONDS = 60.0
ROOM = 1 << 30  # bytes
PREFIX = "egress-postgresql-"
# Nothing here outlives the tests, so nothing needs to reach a disk.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "128MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
}


class Server:
    """A running server. `url(name)` is a database's URL; `stop`, `kill` and `start` keep the data, `close` does not."""

    def __init__(self, memory: bool = True, /, **settings: str) -> None:
        """Start a server. `memory`: keep its data in memory, not on a disk. `settings` are added to SETTINGS."""
        _sweep()
        self._settings = SETTINGS | settings
        self.port = free_port()
        self._bin = _binaries()
        self._home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_fastest() if memory else None))
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._as = ["setpriv", "--pdeathsig=INT"]  # it ends with us, however we end
        if os.geteuid() == 0:  # as whom the server refuses to run
            user = _user()
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._as += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        try:
            self._initialize()
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, database: str, user: str = "egress", password: str = "not%2Fa%20secret%40all") -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def local_url(self, database: str) -> str:
        """The URL of a database by the server's unix socket, which every network namespace of this host can reach."""
        return f"{self.url(database).replace(f'127.0.0.1:{self.port}', '')}?host={self._home}&port={self.port}"

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Execute SQL as the superuser, each statement outside a transaction."""
        with self._connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def new(self, template: str = "template1", name: str = "") -> str:
        """Create a database from a template; returns its URL."""
        name = name or f"test_{next(self._numbers)}"
        with self._connect("postgres") as connection:
            # Files are copied in a third of the time that the other strategy takes, which writes each page to the log.
            copied = "STRATEGY FILE_COPY" if connection.info.server_version >= 150000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {copied}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def start(self) -> None:
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as, self._bin / "postgres", "-D", self._data], stdout=log, stderr=log
            )
        end = time.monotonic() + SECONDS
        while True:
            try:
                self._connect("postgres").close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    said = (self._home / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{said}") from None
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server in order, without waiting for clients (fast shutdown)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(SECONDS)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL to all its processes. With `synchronous_commit` off the last commits are lost."""
        if self._process is None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):  # the postmaster first: it would start others
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(SECONDS)
        self._process = None
        end = time.monotonic() + SECONDS
        while not all(map(_ended, children)) and time.monotonic() < end:
            time.sleep(0.01)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="egress", password=PASSWORD, dbname=database, autocommit=True
        )

    def _initialize(self) -> None:
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        # A language's order, as a server's databases have it by default: ours must not depend on it.
        order = ["--encoding=UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en"]
        access = ["--username=egress", f"--pwfile={secret}", "--auth=scram-sha-256"]
        home = self._home.stat()
        os.chown(secret, home.st_uid, home.st_gid)
        done = subprocess.run(
            [*self._as, self._bin / "initdb", "--no-sync", *order, *access, "-D", self._data],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr.strip()}")
        settings = self._settings | {"port": str(self.port), "unix_socket_directories": str(self._home)}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def _sweep() -> None:
    """Remove the directories of servers whose test process was killed."""
    for place in (Path("/dev/shm"), Path(tempfile.gettempdir())):
        for left in place.glob(f"{PREFIX}[0-9]*-*"):
            if not Path("/proc", left.name.removeprefix(PREFIX).partition("-")[0]).exists():
                shutil.rmtree(left, ignore_errors=True)


def _ended(pid: str) -> bool:
    """Return True if a process has ended; a zombie counts as ended."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _fastest() -> str | None:
    """Return a directory in memory if it has room, since a new database takes a tenth of the time there; else None."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None


def _binaries() -> Path:
    found = sorted(Path("/").glob(f"{PLACES[1:]}/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    if elsewhere is None:
        raise RuntimeError("the store's tests need PostgreSQL: apt-get install postgresql, or make setup as root")
    return Path(elsewhere).resolve().parent


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
