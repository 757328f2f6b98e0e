"""Runs a command under the limits of a systemd unit, where systemd does not run.

`python -m tests.lab.confine UNIT WRITABLE COMMAND…` applies the unit's capability bounding set, no_new_privs, umask,
MemoryDenyWriteExecute, SystemCallFilter and ProtectSystem=strict (with the unit's ReadWritePaths and WRITABLE). Address
families, devices and namespaces are not limited here. Needs root and a mount namespace of its own.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

from egress.gateway.kernel import linux

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")  # linux-libc-dev
CAPABILITIES = Path("/usr/include/linux/capability.h")
_PR_SET_MDWE, _REFUSE_EXEC_GAIN = 65, 1  # linux/prctl.h, Linux 6.3
_KEPT = ("/proc", "/sys", "/dev")  # ProtectSystem=strict leaves these


class Unit:
    """The settings of a unit's [Service], each a list of its words over all its lines."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[str, list[str]] = {}
        for line in path.read_text().replace("\\\n", " ").splitlines():
            name, found, value = line.partition("=")
            if found and re.fullmatch(r"\w+", name):
                self.lines.setdefault(name, []).append(value)

    def words(self, name: str) -> list[str]:
        return " ".join(self.lines.get(name, [])).split()


@cache
def groups() -> dict[str, list[str]]:
    """Return the sets of system calls that systemd knows: @name → calls and other sets."""
    found: dict[str, list[str]] = {}
    name = ""
    text = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif line.startswith("    ") and name and not line.strip().startswith("#"):
            found.setdefault(name, []).append(line.strip())
    return found


def calls(words: list[str]) -> set[str]:
    found: set[str] = set()
    for word in words:
        found |= calls(groups()[word]) if word.startswith("@") else {word}
    return found


def allowed(unit: Unit) -> set[str]:
    """Return the system calls that a unit's SystemCallFilter lets through."""
    found: set[str] = calls(["@default"])
    for line in unit.lines["SystemCallFilter"]:
        chosen = calls(line.removeprefix("~").split())
        found = found - chosen if line.startswith("~") else found | chosen
    return found


def filter_calls(names: set[str]) -> None:
    """Answer EPERM to all other system calls, as SystemCallErrorNumber says."""
    numbers = [
        int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()) if name in names
    ]
    load, equal, answer = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 0)]
    for number in numbers:
        steps += [(equal, 0, 1, number), (answer, 0, 0, 0x7FFF0000)]
    steps.append((answer, 0, 0, 0x00050001))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(22, ctypes.c_ulong(2), ctypes.c_char_p(program), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def capabilities(unit: Unit) -> frozenset[int]:
    numbers = dict(re.findall(r"#define (CAP_\w+)\s+(\d+)", CAPABILITIES.read_text()))
    return frozenset(int(numbers[name]) for name in unit.words("CapabilityBoundingSet"))


def protect(writable: list[str]) -> None:
    """Make all file systems read-only but `writable` and the kernel's own."""
    for path in writable:
        linux.mount(path, path, "", linux.MS_BIND | linux.MS_REC)
    kept = (*_KEPT, *writable)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1].encode().decode("unicode_escape")
        if not any(place == path or place.startswith(f"{path}/") for path in kept):
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=False, capture_output=True)


def main(unit_file: str, writable: str, *command: str) -> None:
    unit = Unit(Path(unit_file))
    os.umask(int(unit.words("UMask")[0], 8))
    protect([path.lstrip("-") for path in unit.words("ReadWritePaths")] + [writable])
    names, kept = allowed(unit), capabilities(unit)
    linux.limit_bounding(kept)
    linux.limit_capabilities(kept)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN)
    filter_calls(names)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
