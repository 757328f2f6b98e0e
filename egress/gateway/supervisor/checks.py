"""Checks that a machine can be a gateway. A failed check names the missing part and its remedy."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from egress.config import Config
from egress.errors import EgressError

PACKAGES = {
    "netfilterqueue": "NetfilterQueue",
    "hyperscan": "hyperscan",
    "cryptography": "cryptography",
    "hpack": "hpack",
    "sqlalchemy": "SQLAlchemy",
}
TOOLS = {"ip": "iproute2"}
PYTHON = (3, 11)
_QUEUE = Path("/proc/net/netfilter/nfnetlink_queue")


class Check(NamedTuple):
    """The result of one check, a line of `egress doctor`. Where `ok` is False, `text` says what to do."""

    name: str
    ok: bool
    text: str


def machine() -> list[Check]:
    """Run all checks of this module. None of them needs a running gateway."""
    return [python(), root(), *packages(), *tools(), kernel()]


def require(config: Config) -> None:
    """Raise EgressError for the first failed check, or for queue numbers out of range: the gateway cannot start."""
    for check in machine():
        if not check.ok:
            raise EgressError(check.text)
    if config.workers > 1024 or not 0 <= config.queue.base < 0xFFFF:
        raise EgressError("workers: at most 1024; queue.base: from 0 to 65534")


def python() -> Check:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return Check("python", False, f"Python {version} is too old: use 3.11 or later")
    return Check("python", True, f"Python {version}")


def root() -> Check:
    """Check that this process runs as root."""
    if os.geteuid() == 0:
        return Check("root", True, "running as root")
    return Check("root", False, "not running as root: use sudo")


def packages() -> list[Check]:
    """Check the packages by importing them: a wheel built for another Python fails only then."""
    found = []
    for module, name in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            found.append(Check(module, False, f"package {name} cannot be imported ({error}): pip install {name}"))
        else:
            found.append(Check(module, True, f"package {name}"))
    return found


def tools() -> list[Check]:
    """Check that the system's tools in TOOLS are installed."""
    return [
        Check(tool, bool(path), path or f"{tool} is not installed: install the package {package}")
        for tool, package in TOOLS.items()
        for path in [shutil.which(tool)]
    ]


def kernel() -> Check:
    """Check NFQUEUE by opening a netlink socket of its kind, which also loads the kernel module."""
    if os.geteuid() != 0:
        return Check("nfqueue", False, "kernel NFQUEUE: only root can check it; use sudo")
    try:
        library = importlib.import_module("netfilterqueue")
        library.NetfilterQueue()
    except (ImportError, OSError) as error:
        return Check(
            "nfqueue",
            False,
            f"the kernel has no NFQUEUE ({error}): modprobe nfnetlink_queue, or use a kernel that has it",
        )
    if not _QUEUE.exists():
        return Check("nfqueue", False, "the kernel shows no nfnetlink_queue in /proc: modprobe nfnetlink_queue")
    return Check("nfqueue", True, "kernel NFQUEUE")
