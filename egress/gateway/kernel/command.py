"""Run the system's network tools; their error output becomes the one line of an EgressError."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import egress
from egress.errors import EgressError

PACKAGES = {"ip": "iproute2", "iptables": "iptables", "ip6tables": "iptables"}
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ")  # to start, to format
OURS = ("PYTHONPATH", "PYTHONSAFEPATH")
TIMEOUT = 30.0  # seconds; a tool that takes longer is taken to wait for a lock


def run(*argv: str, stdin: str | None = None) -> str:
    """Run a command to its end, with the text `stdin` as its input. Returns its standard output.

    Raises EgressError, in one line, when the tool is absent, may not be run, exits with a status other than 0, or does
    not finish within TIMEOUT seconds.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except FileNotFoundError:
        package = PACKAGES.get(argv[0].split("-")[0], argv[0])
        raise EgressError(f"{argv[0]} is not installed: install the package {package}") from None
    except PermissionError:
        raise EgressError(f"{argv[0]} may not be run: start egress as root") from None
    except subprocess.TimeoutExpired:
        raise EgressError(f"{' '.join(argv)[:120]} did not finish within {TIMEOUT:.0f} s: is its lock held?") from None
    if done.returncode:
        complaint = " ".join((done.stderr or done.stdout).split())[:300] or f"exit code {done.returncode}"
        raise EgressError(f"{' '.join(argv)[:120]}: {complaint}")
    return done.stdout


def python(module: str) -> tuple[list[str], dict[str, str]]:
    """Return command line and environment to run a module of this source tree, also where the cwd has one so named."""
    root = str(Path(egress.__file__).resolve().parent.parent)
    return [sys.executable, "-m", module], {**os.environ, "PYTHONPATH": root, "PYTHONSAFEPATH": "1"}


def confined(module: str) -> tuple[list[str], dict[str, str]]:
    """Return command line and environment to run a module that gives up its privileges.

    The environment has only the variables INHERITED from this process and OURS: others may hold passwords and tokens,
    and stay readable in /proc/PID/environ.
    """
    words, environment = python(module)
    return words, {name: environment[name] for name in (*INHERITED, *OURS) if name in environment}
