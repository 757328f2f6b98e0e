"""Sandboxes, network namespaces behind the gateway for `egress run`: make, find after a crash, and remove them.

    sandbox: eth0 ── veth ── egr0007: host   10.77.0.28/30 and fd65:6772:6573:7::/64 for index 7; the host is .1 and ::1

The namespace is owned by a user namespace of its own, with every id mapped to itself. So CAP_NET_ADMIN is safe inside:
with that capability in the host's user namespace, a process may use the number of its veth's other end
(IFLA_TARGET_NETNSID, rtnetlink(7)) to list, make and delete links in the host's network, and so make a way past the
gateway.

No packet passes before `connect`: until then the host's end of the link is down, and an address without a carrier sends
nothing. So the interface can be guarded first.

A record in run_dir/sandboxes is written before a sandbox is made and removed after it is gone, so that `leftovers`
finds the sandboxes of a killed process. Creation and removal take a lock; the last removal restores the host's
forwarding.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.gateway.kernel import forwarding, rtnetlink
from egress.gateway.kernel.linux import CLONE_NEWNET, CLONE_NEWUSER, unshare
from egress.gateway.kernel.rtnetlink import Rtnetlink
from egress.gateway.sandbox import netns

INSIDE = "eth0"  # the veth's name in the sandbox
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NETNS = Path("/etc/netns")
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_MAP = "0 0 4294967295"  # user_namespaces(7): every id is itself


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Names and addresses (text, no prefix length). `interface`: the host's end of the veth, `peer` the sandbox's."""

    name: str
    netns: str
    interface: str
    peer: str
    address4: str
    address6: str
    gateway4: str
    gateway6: str

    @property
    def networks(self) -> tuple[str, str]:
        """The sandbox's own addresses, as CIDRs: any other source is spoofed."""
        return f"{self.address4}/32", f"{self.address6}/128"


def plan(name: str, index: int, config: Config) -> Sandbox:
    """Choose names and addresses of sandbox `index`; nothing is made.

    Raises InputError if the name is not valid, or the index is beyond the address pools.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"sandbox name {name!r}: use up to 64 letters, digits, dots, dashes and underscores")
    room = pool_size(config)
    if not 0 <= index < room:
        raise InputError(
            f"no address left for sandbox {index}: pool4 {config.pool4} and pool6 {config.pool6} hold {room}"
        )
    base4 = ipaddress.ip_network(config.pool4).network_address + 4 * index
    base6 = ipaddress.ip_network(config.pool6).network_address + (index << 64)
    return Sandbox(
        name,
        f"egress-{name}",
        f"egr{index:04d}",
        INSIDE,
        str(base4 + 2),
        str(base6 + 2),
        str(base4 + 1),
        str(base6 + 1),
    )


def pool_size(config: Config) -> int:
    """Return the number of sandboxes that the address pools have room for at once."""
    pool4, pool6 = ipaddress.ip_network(config.pool4), ipaddress.ip_network(config.pool6)
    return int(min(1 << 30 - pool4.prefixlen, 1 << 64 - pool6.prefixlen, 10**12))


def create(name: str, index: int, config: Config) -> Sandbox:
    """Make a sandbox, ready for `connect`, and turn on the host's forwarding.

    Raises EgressError, InputError if its name or interface is in use. After an error nothing of it is left.
    """
    sandbox = plan(name, index, config)
    with _locked(config) as records:
        if netns.path(sandbox.netns).exists() or (records / f"{name}.json").exists():
            hint = f"choose another name, or `ip netns delete {sandbox.netns}` if nothing runs there"
            raise InputError(f"sandbox {name} exists already: {hint}")
        if (Path("/sys/class/net") / sandbox.interface).exists():
            raise InputError(f"interface {sandbox.interface} exists already: choose another index than {index}")
        record = {"owner": os.getpid(), "born": _born(os.getpid()), "sandbox": asdict(sandbox)}
        draft = records / f"{name}.new"
        try:
            draft.write_text(json.dumps(record), encoding="utf-8")
            draft.rename(records / f"{name}.json")
            with _namespace(sandbox) as inside:
                _link(sandbox, inside)
            _resolver(sandbox)
            forwarding.switch_on(records / "forwarding")
        except EgressError:
            _remove(sandbox, records)
            raise
        except OSError as error:
            _remove(sandbox, records)
            raise EgressError(f"cannot make sandbox {name}: {error.strerror} ({error.filename})") from None
    return sandbox


def connect(sandbox: Sandbox) -> None:
    """Set the host's end of the link up, so that packets pass: call it once its interface is guarded.

    Raises EgressError.
    """
    with Rtnetlink(rtnetlink.open_socket()) as host:
        host.set_up(host.index(sandbox.interface))
    # IPv6 starts on a link once its carrier is noticed: up to a second later, unless it is read (Linux 6.8).
    with contextlib.suppress(OSError):  # the sandbox is being removed
        (Path("/sys/class/net") / sandbox.interface / "carrier").read_bytes()


def destroy(sandbox: Sandbox, config: Config) -> None:
    """Remove a sandbox, also a half-made one, and kill its processes. Raises EgressError, OSError.

    No effect if it is gone already, even if another sandbox has its name or its interface by now.
    """
    with _locked(config) as records:
        if sandbox in (known for known, _ in _recorded(records)):
            _remove(sandbox, records)


def leftovers(config: Config) -> list[Sandbox]:
    """List sandboxes whose maker, a gateway process, has ended without removing them. Raises EgressError."""
    with _locked(config) as records:
        return [sandbox for sandbox, alive in _recorded(records) if not alive]


def free_index(config: Config) -> int:
    """Find the lowest free index. Another process may take it first. Raises InputError when the pools are used up."""
    with _locked(config) as records:
        used = {sandbox.interface for sandbox, _ in _recorded(records)}
    for index in range(min(pool_size(config), len(used) + 1000)):
        interface = f"egr{index:04d}"
        if interface not in used and not (Path("/sys/class/net") / interface).exists():
            return index
    raise InputError(f"no address left for another sandbox: pool4 {config.pool4} and pool6 {config.pool6} are in use")


def _recorded(records: Path) -> list[tuple[Sandbox, bool]]:
    """Read all records: each sandbox, and whether the process that made it is alive.

    Raises EgressError for a damaged one.
    """
    found = []
    for path in sorted(records.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found.append((Sandbox(**record["sandbox"]), _born(int(record["owner"])) == record["born"]))
        except (ValueError, KeyError, TypeError):
            raise EgressError(f"{path} is damaged: see `ip netns list`, then delete that file") from None
    return found


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[Path]:
    """Hold the lock of creation and removal; yields the directory of the records. Raises EgressError."""
    records = config.run_dir / "sandboxes"
    try:
        records.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(records / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EgressError(f"cannot use {records} ({error.strerror}): start egress as root, or set run_dir") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield records
    finally:
        os.close(lock)


def _namespace(sandbox: Sandbox) -> Rtnetlink:
    """Make the user and network namespaces in a child process, and name the latter; then the child ends.

    Returns an rtnetlink connection in the sandbox, whose socket the child opened. Raises EgressError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _become_namespace(ours, theirs)
    try:
        theirs.close()
        answer, inside, *_ = socket.recv_fds(ours, 200, 1)
        if not inside:
            raise EgressError(f"no user namespace ({answer.decode()}): set sysctl user.max_user_namespaces above 0")
        route = Rtnetlink(socket.socket(fileno=inside[0]))
        for table in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{table}").write_text(_MAP, encoding="ascii")
        netns.give_name(sandbox.netns, Path(f"/proc/{child}/ns/net"))
    except OSError as error:
        raise EgressError(f"cannot make the sandbox's namespaces ({error.strerror}): start egress as root") from None
    finally:
        ours.close()
        os.waitpid(child, 0)
    return route


def _become_namespace(ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """Enter new namespaces, in the child; send an rtnetlink socket or an error, and end when `ours` is closed."""
    try:
        ours.close()
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        with rtnetlink.open_socket() as inside:
            socket.send_fds(theirs, [b"0"], [inside.fileno()])
        theirs.recv(1)
    except OSError as error:
        theirs.send(os.strerror(error.errno or 0).encode())
    finally:
        os._exit(0)


def _link(sandbox: Sandbox, inside: Rtnetlink) -> None:
    """Make the veth with addresses and routes, the host's end down. Raises EgressError.

    rp_filter is turned off there, or set to 2 (loose) where `all` is on already: the engine must see spoofed packets.
    """
    name, six = sandbox.interface, Path("/proc/sys/net/ipv6").exists()
    with Rtnetlink(rtnetlink.open_socket()) as host:
        with netns.path(sandbox.netns).open("rb") as namespace:
            host.add_veth(name, sandbox.peer, namespace.fileno())
        filtering = forwarding.read("ipv4/conf/all/rp_filter") != "0"
        forwarding.write(f"ipv4/conf/{name}/rp_filter", "2" if filtering else "0")
        forwarding.write(f"ipv4/conf/{name}/send_redirects", "0")
        outer, inner = host.index(name), inside.index(sandbox.peer)
        host.add_address(outer, sandbox.gateway4, 30)
        inside.add_address(inner, sandbox.address4, 30)
        if six:
            for key, value in (("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")):
                forwarding.write(f"ipv6/conf/{name}/{key}", value)
            host.add_address(outer, sandbox.gateway6, 64)
            inside.add_address(inner, sandbox.address6, 64)
    inside.set_up(rtnetlink.LOOPBACK)
    inside.set_up(inner)
    inside.add_default_route(sandbox.gateway4, inner)
    if six:
        inside.add_default_route(sandbox.gateway6, inner)


def _resolver(sandbox: Sandbox) -> None:
    """Write the sandbox's resolv.conf: the host's, without name servers on loopback, which it cannot reach.

    Raises EgressError.
    """
    lines: list[str] = []
    for path in _RESOLVERS:
        with contextlib.suppress(OSError):
            lines = [line for line in path.read_text("utf-8", "replace").splitlines() if _usable(line)]
        if any(line.startswith("nameserver") for line in lines):
            break
    else:
        lines.append("# The host's name servers listen on its loopback only: put one here that the sandbox may reach.")
    try:
        directory = _NETNS / sandbox.netns
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resolv.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
        (directory / "resolv.conf").chmod(0o644)  # with any umask: the command may not run as root
    except OSError as error:
        raise EgressError(f"cannot write {_NETNS / sandbox.netns}: {error.strerror}") from None


def _usable(line: str) -> bool:
    """Return True for a line of resolv.conf that is right in a sandbox, too."""
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return len(words) > 1 and words[0] in ("search", "options")
    try:
        address = ipaddress.ip_address(words[1].split("%")[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)


def _remove(sandbox: Sandbox, records: Path) -> None:
    """Kill the processes of a sandbox, and remove all that `create` made, as far as it is there."""
    for pid in netns.processes(sandbox.netns):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with Rtnetlink(rtnetlink.open_socket()) as host:
        host.delete_link(sandbox.interface)  # at once; with the namespace alone it would go later
    netns.remove(sandbox.netns)
    shutil.rmtree(_NETNS / sandbox.netns, ignore_errors=True)
    (records / f"{sandbox.name}.json").unlink(missing_ok=True)
    if not any(records.glob("*.json")):
        forwarding.switch_back(records / "forwarding")


def _born(pid: int) -> str:
    """Return a process's start in clock ticks since boot (proc(5), stat field 22); empty if there is no such process.

    A reused pid has another start.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, though its parent has not collected it
    except (OSError, IndexError):
        return ""
