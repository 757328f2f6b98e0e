"""The settings (dataclasses with their defaults), and the reader of the YAML file that changes them.

The file may leave out any setting. An unknown key or a wrong value raises InputError, which names the setting.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import platform
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from egress.errors import InputError
from egress.limits import Limits

CONFIG_FILE = Path("/etc/egress/egress.yaml")
POLICY_FILE = Path("/etc/egress/policy.yaml")
SEGMENT_BYTES = 64 * 1024  # the smallest Journal.segment_bytes: a record's line has 64 KiB at most
JOURNAL_BYTES = 1024 * 1024  # the smallest Journal.max_bytes

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Queue:
    """Settings of the netfilter queues. Each agent has two, numbered from `base` on: full depth, and settled."""

    base: int = 7400
    length: int = 4096  # packets that wait in a queue before the kernel drops more
    settled_copy: int = 3072  # bytes of each packet of a settled flow that are inspected


@dataclass(frozen=True, slots=True)
class Api:
    """Settings of the REST API (`egress serve`). It listens on host and port, and for root on run_dir/api.sock."""

    host: str = "127.0.0.1"  # empty: the Unix socket only
    port: int = 7477
    tls_cert: Path | None = None  # PEM; with tls_key: HTTPS
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # PEM; clients need a certificate issued by it, and their token
    failures: int = 10  # failed authentications per address and minute; more are answered with 429
    steps: int = 50_000  # new steps per agent and 24 hours; more are refused

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("api: tls_cert and tls_key go together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InputError("api.tls_client_ca: client certificates need TLS: give tls_cert and tls_key too")
        if not 0 < self.port < 65536:
            raise InputError(f"api.port: {self.port} must be from 1 to 65535")


FSYNC = ("never", "second", "record")
ON_FULL = ("refuse", "continue")


@dataclass(frozen=True, slots=True)
class Journal:
    """Settings of the journal, the files in state_dir/journal that keep records until they are in the database.

    A worker writes the records of a packet there before it gives the kernel its verdict.
    """

    segment_bytes: int = 16 * 1024 * 1024  # a segment of this size is followed by a new one
    segment_seconds: float = 3600.0  # also one of this age
    fsync: str = "never"  # when to sync: never (left to the kernel), each second, or before each answer (record)
    max_bytes: int = 4 * 1024 * 1024 * 1024  # all segments together; from 7/8 of it on new flows are refused
    on_full: str = "refuse"  # new flows while records cannot be written: refuse, or continue (and count losses)

    def __post_init__(self) -> None:
        if self.fsync not in FSYNC:
            raise InputError(f"journal.fsync: {self.fsync!r} must be {', '.join(FSYNC[:-1])} or {FSYNC[-1]}")
        if self.on_full not in ON_FULL:
            raise InputError(f"journal.on_full: {self.on_full!r} must be {' or '.join(ON_FULL)}")
        if not SEGMENT_BYTES <= self.segment_bytes <= 1 << 30:
            raise InputError(f"journal.segment_bytes: {self.segment_bytes} must be from {SEGMENT_BYTES} to {1 << 30}")
        if not 1.0 <= self.segment_seconds <= 86400.0:
            raise InputError(f"journal.segment_seconds: {self.segment_seconds} must be from 1 to 86400")
        if not JOURNAL_BYTES <= self.max_bytes <= 1 << 50:
            raise InputError(f"journal.max_bytes: {self.max_bytes} must be from {JOURNAL_BYTES} to {1 << 50}")


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits on the age and size of the records in the database; 0: no limit. The recorder deletes records beyond."""

    days: int = 90  # flows, findings, anomalies, folded records, processes, seals, steps; living flows stay
    evidence_days: int = 30  # packets; their findings stay
    evidence_bytes: int = 1 << 30  # packets; the oldest are deleted first

    def __post_init__(self) -> None:
        if not (0 <= self.days <= 36500 and 0 <= self.evidence_days <= 36500):
            raise InputError("retention: days and evidence_days must be from 0 (no limit) to 36500")
        if not 0 <= self.evidence_bytes < 1 << 62:
            raise InputError("retention: evidence_bytes must be a number of bytes, or 0 for no limit")


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a gateway, of its API and of the commands that read its database."""

    host: str = ""  # name of this gateway among those that share a database; empty: the machine's host name
    state_dir: Path = Path("/var/lib/egress")  # database, journal
    run_dir: Path = Path("/run/egress")  # control socket
    database: str = ""  # SQLAlchemy URL; empty: SQLite in state_dir
    policy: Path | None = None  # policy file; None: /etc/egress/policy.yaml if it exists, else no rules
    workers: int = 0  # worker processes; 0: one for each CPU
    user: str = ""  # the user that workers become once their queues are bound; empty: egress-worker, else nobody
    attribution_user: str = ""  # and the user of attribution; empty: egress-attribution, else the workers' user
    fail_open: bool = False  # let packets pass while no worker is bound or a queue is full
    on_stop: str = "block"  # kernel rules after a clean stop: block (agents are cut off), or remove (unguarded)
    tamper_limit: int = 5  # changes of our kernel rules by others within a minute that cut all agents off; 0: none
    watchdog: float = 10.0  # a worker that gives no sign of life for so many seconds is replaced
    mark_mask: int = 0x0F000000  # the four adjacent bits of packet and connection marks that egress uses
    pool4: str = "10.77.0.0/16"  # sandboxes of `egress run` get a /30 each from here
    pool6: str = "fd65:6772:6573::/48"  # and a /64 each from here
    gate_queries: bool = True  # refuse DNS queries for names that no rule allows, if the agent's default is to refuse
    refuse_ech: bool = False  # refuse TLS hellos with an ECH extension under name rules, unless the rule is `unnamed`
    beacon_alpha: float = 1e-3  # accepted probability that beacon.timing ever raises a false alarm for an agent
    attribution: bool = True  # look up the process behind each flow of an agent on this host
    limits: Limits = field(default_factory=Limits)
    queue: Queue = field(default_factory=Queue)
    journal: Journal = field(default_factory=Journal)
    api: Api = field(default_factory=Api)
    retention: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        mask = self.mark_mask
        if mask <= 0 or mask >> 32 or bin(mask).count("1") != 4 or "1111" not in bin(mask):
            raise InputError(f"mark_mask: {mask:#x} must be four adjacent bits of a 32-bit mark")
        if self.host and not _HOST.fullmatch(self.host):
            raise InputError(f"host: {self.host!r} must be letters, digits, . _ - and at most 63 long")
        if self.on_stop not in ("remove", "block"):
            raise InputError(f"on_stop: {self.on_stop!r} must be remove or block")
        if not 0 <= self.tamper_limit <= 1000:
            raise InputError(f"tamper_limit: {self.tamper_limit} must be from 0 to 1000")
        for name, pool, version, longest in (("pool4", self.pool4, 4, 30), ("pool6", self.pool6, 6, 64)):
            try:
                network = ipaddress.ip_network(pool)
            except ValueError as error:
                raise InputError(f"{name}: {error}") from None
            if network.version != version or network.prefixlen > longest:
                raise InputError(f"{name}: {pool} must be an IPv{version} network of /{longest} or larger")

    @property
    def host_name(self) -> str:
        """The name of this gateway in the database: `host`, or else the machine's host name in valid characters."""
        return self.host or re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).lstrip("._-")[:63] or "localhost"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database: `database`, else SQLite in state_dir."""
        return self.database or f"sqlite:///{self.state_dir / 'egress.db'}"

    @property
    def journal_dir(self) -> Path:
        """The directory of the journal's segments."""
        return self.state_dir / "journal"

    @property
    def cases_dir(self) -> Path:
        """The directory of cases: judged captures, each case a database file."""
        return self.state_dir / "cases"

    @property
    def control_socket(self) -> Path:
        """The Unix socket on which the gateway takes commands (`egress.control`)."""
        return self.run_dir / "gateway.sock"

    @property
    def api_socket(self) -> Path:
        """The Unix socket on which the REST API serves root."""
        return self.run_dir / "api.sock"

    @property
    def interfaces_file(self) -> Path:
        """The file with the interfaces that the gateway guards, so that they can be blocked at boot."""
        return self.state_dir / "interfaces.json"

    @property
    def opened_note(self) -> Path:
        """The file that exists while agents are open on purpose, without a gateway; a reboot removes it."""
        return self.run_dir / "opened.json"

    @property
    def cut_note(self) -> Path:
        """The file that exists while agents are cut off because other programs kept changing the kernel rules."""
        return self.run_dir / "cut"

    @property
    def policy_snapshot(self) -> Path:
        """The file with a copy of the policy and agents in force, for a start without the database."""
        return self.state_dir / "policy.json"


def load_config(path: Path | None = None) -> Config:
    """Read a configuration file: `path`, else CONFIG_FILE; if that does not exist, return the defaults.

    Raises InputError if the file cannot be read or is not valid.
    """
    if path is None:
        if not CONFIG_FILE.exists():
            return Config()
        path = CONFIG_FILE
    document = load_yaml(path)
    return typing.cast(Config, build(Config, {} if document is None else document, str(path)))


def load_yaml(path: Path) -> object:
    """Parse a YAML file. Raises InputError, in one line, for a file that cannot be read or parsed."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None


def build(shape: type, document: object, where: str) -> object:
    """Build the dataclass `shape`, and those inside it, from a mapping.

    Raises InputError for an unknown key, a wrong type or a value out of range; `where` begins its message.
    """
    if not isinstance(document, dict):
        raise InputError(f"{where}: expected a mapping of settings, not {type(document).__name__}")
    hints = typing.get_type_hints(shape)
    unknown = sorted(str(key) for key in document if key not in hints)
    if unknown:
        raise InputError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(hints))}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in document.items()}
    return shape(**values)


def _value(hint: object, value: object, where: str) -> object:
    """Convert a YAML value to the type `hint` of a setting. Raises InputError, whose text begins with `where`."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in hint.__args__ if part is not type(None))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where}: {value!r} must be {getattr(hint, '__name__', hint)}")
    return value
