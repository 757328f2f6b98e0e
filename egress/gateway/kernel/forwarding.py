"""Make the host a router while there are sandboxes, and put it back as it was.

Turning IPv6 forwarding on makes the kernel ignore router advertisements on interfaces with accept_ra=1 and forget the
default routes it learned from them; accept_ra=2 keeps both (Documentation/networking/ip-sysctl.rst), and so is set
first. Turning forwarding on changes other sysctls too (each interface's `forwarding`, IPv4 `accept_redirects`): all
that differ afterwards are recorded in run_dir, which like the sysctls themselves does not outlive a reboot. A sysctl
that another program switched on meanwhile is switched off with ours: the two cannot be told apart.
"""

from __future__ import annotations

import json
from pathlib import Path

from egress.errors import EgressError

_NET = Path("/proc/sys/net")
_SWITCHES = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
_WATCHED = ("ipv4/conf/*/forwarding", "ipv4/conf/*/accept_redirects", "ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra")


def switch_on(record: Path) -> None:
    """Turn forwarding on for each family where it is off. Raises EgressError.

    The old values go to the file `record`; values from an earlier call stay there.
    """
    needed = [name for name in _SWITCHES if (_NET / name).exists() and read(name) == "0"]
    if not needed:
        return
    before, old = _snapshot(), _load(record)
    _save(record, before | old)  # all of them, in case this process ends before it is done
    if "ipv6/conf/all/forwarding" in needed:
        for name, value in before.items():
            if name.endswith("/accept_ra") and value == "1" and name.split("/")[2] not in ("all", "default"):
                write(name, "2")
    for name in needed:
        write(name, "1")
    after = _snapshot()
    # Sysctls that differ, and those that were on before and that switching back would turn off.
    changed = {n: v for n, v in before.items() if after.get(n, v) != v or (n.endswith("forwarding") and v != "0")}
    _save(record, changed | old)


def switch_back(record: Path) -> None:
    """Restore the sysctls in the file `record`, if there is one, and delete it. Raises EgressError.

    Interfaces that are gone are skipped.
    """
    values = _load(record)
    # The switches first: they reset every interface. accept_ra last, when forwarding is off again.
    for name in sorted(
        values, key=lambda name: (name not in _SWITCHES, "/all/" not in name, name.endswith("accept_ra"))
    ):
        if (_NET / name).exists() and read(name) != values[name]:
            write(name, values[name])
    record.unlink(missing_ok=True)


def read(name: str) -> str:
    """Return a sysctl below net/, e.g. `ipv4/ip_forward`. Raises OSError."""
    return (_NET / name).read_text(encoding="ascii").strip()


def write(name: str, value: str) -> None:
    """Set a sysctl below net/, e.g. `ipv4/ip_forward`. Raises EgressError where the kernel refuses."""
    try:
        (_NET / name).write_text(value, encoding="ascii")
    except OSError as error:
        key = "net." + name.replace("/", ".")
        raise EgressError(f"cannot set {key}={value} ({error.strerror}): set it yourself, then try again") from None


def _snapshot() -> dict[str, str]:
    names = [*_SWITCHES, *(str(path.relative_to(_NET)) for pattern in _WATCHED for path in sorted(_NET.glob(pattern)))]
    return {name: read(name) for name in dict.fromkeys(names) if (_NET / name).exists()}


def _load(record: Path) -> dict[str, str]:
    try:
        return dict(json.loads(record.read_text(encoding="ascii")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise EgressError(f"{record} is damaged: check `sysctl net.ipv4.ip_forward`, then delete that file") from None


def _save(record: Path, values: dict[str, str]) -> None:
    draft = record.with_suffix(".new")
    draft.write_text(json.dumps(values, indent=1), encoding="ascii")
    draft.rename(record)
