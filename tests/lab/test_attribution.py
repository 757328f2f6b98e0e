"""The look-up of a flow's process: real processes in real namespaces, the gateway's code without the gateway.

Both families; TCP, UDP, ICMP; children, other pid namespaces, threads of their own tables, sockets handed on; and
processes that do not want to be found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from egress.model import ICMP, ICMPV6, TCP, UDP
from egress.records.shape import PROCESS_CMDLINE
from tests.lab.net import PYTHON, Lab, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

AGENT, NOBODY = ("10.99.1.2", "fd99:1::2"), ("10.99.1.77", "fd99:1::77")  # the second one does not answer
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
PRELUDE = """
import json, os, socket, sys, threading, time
def tcp(local, remote, family=None):
    s = socket.socket(family or (socket.AF_INET6 if ":" in local else socket.AF_INET), socket.SOCK_STREAM)
    s.setblocking(False)
    s.connect_ex((remote, 443))
    return s
def udp(local, remote, connected=False, family=None):
    s = socket.socket(family or (socket.AF_INET6 if ":" in local else socket.AF_INET), socket.SOCK_DGRAM)
    if connected:
        s.connect((remote, 443))
        s.send(b"x")
    else:
        s.sendto(b"x", (remote, 443))
    return s
def say(s, pid=None):
    print(json.dumps([pid or os.getpid(), s.getsockname()[1]]), flush=True)
local, remote = sys.argv[1:3]
"""
WAIT = "sys.stdin.readline()"


@dataclass
class Ground:
    """An agent's namespace behind the gateway's, and the look-up running there."""

    lab: Lab
    agent: str
    gateway: str
    finder: subprocess.Popen[str]

    def run(self, code: str, *words: str, v6: bool = False, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Run Python in the agent's namespace, after the prelude."""
        command = [*wrap, PYTHON, "-c", PRELUDE + textwrap.dedent(code), AGENT[v6], NOBODY[v6], *words]
        return self.lab.popen(self.agent, command)

    def ask(self, port: int, proto: int = TCP, *, v6: bool = False, **asked: object) -> dict[str, Any]:
        """Look up the process behind a flow from this port."""
        note = {"interface": "egr0001", "proto": proto, "local": AGENT[v6], "remote": NOBODY[v6], "port": port}
        to = {"to": 0 if proto in (ICMP, ICMPV6) else 443}
        assert self.finder.stdin is not None and self.finder.stdout is not None
        self.finder.stdin.write(json.dumps(note | to | asked) + "\n")
        self.finder.stdin.flush()
        document = json.loads(self.finder.stdout.readline())
        return {**document["process"], "seconds": document["seconds"]}


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Lab() as lab:
        agent, gateway = lab.ns("agent"), lab.ns("gateway")
        lab.veth(agent, "eth0", gateway, "egr0001", 1)
        for address in NOBODY:  # otherwise a connection fails after three seconds without a neighbour
            there = [
                "ip",
                "neighbour",
                "add",
                address,
                "lladdr",
                "02:00:00:00:00:77",
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]
            lab.run(agent, [*there, "nud", "permanent"], check=True)
        yield Ground(lab, agent, gateway, lab.popen(gateway, [PYTHON, "-m", "tests.lab.finder"]))


def said(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Read the process id and port that a process prints."""
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    pid, port = json.loads(line)
    return pid, port


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=20)


@FAMILIES
@pytest.mark.parametrize(
    ("code", "proto"),
    [
        ("s = tcp(local, remote)", TCP),
        ("s = udp(local, remote)", UDP),
        ("s = udp(local, remote, connected=True)", UDP),
    ],
    ids=["tcp", "udp", "connected udp"],
)
def test_who_opened_it(ground: Ground, v6: bool, code: str, proto: int) -> None:
    process = ground.run(f"{code}; say(s); {WAIT}", "a b", v6=v6)
    pid, port = said(process)
    found = ground.ask(port, proto, v6=v6)
    assert (found["status"], found["pid"], found["inner_pid"], found["uid"]) == ("found", pid, pid, 0)
    assert Path(found["exe"]).samefile(os.path.realpath(sys.executable))
    assert found["cmdline"].startswith(f"{PYTHON} -c ") and found["cmdline"].endswith(" 'a b'")
    assert found["reason"] == "" and found["started"].endswith("Z")
    end(process)


def test_ipv4_of_an_ipv6_socket(ground: Ground) -> None:
    process = ground.run(
        f"""
        mapped = "::ffff:" + remote
        kept = [tcp(local, mapped, socket.AF_INET6), udp(local, mapped, False, socket.AF_INET6)]
        for each in kept: say(each)
        {WAIT}
        """
    )
    for proto in (TCP, UDP):
        pid, port = said(process)
        assert ground.ask(port, proto)["pid"] == pid
    end(process)


@FAMILIES
def test_a_socket_bound_to_a_device(ground: Ground, v6: bool) -> None:
    process = ground.run(
        f"""
        kept = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            s = socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET, kind)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            s.setblocking(False)
            s.connect_ex((remote, 443))
            kept.append(s)
            say(s)
        {WAIT}
        """,
        v6=v6,
    )
    for proto in (TCP, UDP):
        pid, port = said(process)
        assert ground.ask(port, proto, v6=v6)["pid"] == pid
    end(process)


@FAMILIES
def test_a_server_that_is_connected_to(ground: Ground, v6: bool) -> None:
    """A flow towards the agent belongs to its listener; a flow from the listener's port does not."""
    code = f"""
        s = socket.socket(socket.AF_INET6 if ":" in local else socket.AF_INET)
        s.bind((local, 0)); s.listen(); say(s); {WAIT}
    """
    process = ground.run(code, v6=v6)
    pid, port = said(process)
    assert ground.ask(port, v6=v6, inbound=True)["pid"] == pid
    assert ground.ask(port, v6=v6)["status"] == "gone"
    end(process)


@FAMILIES
def test_echo_requests(ground: Ground, v6: bool) -> None:
    """A ping socket is known by its identifier; a raw one only where it is alone."""
    proto = ICMPV6 if v6 else ICMP
    ground.lab.run(ground.agent, ["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"], check=True)
    name = "AF_INET6, {}, socket.IPPROTO_ICMPV6" if v6 else "AF_INET, {}, socket.IPPROTO_ICMP"
    opened = f"s = socket.socket(socket.{name.format('socket.SOCK_DGRAM')})"
    process = ground.run(f"{opened}; s.bind((local, 4711)); say(s); {WAIT}", v6=v6)
    pid, port = said(process)
    assert port == 4711 and ground.ask(4711, proto, v6=v6)["pid"] == pid
    assert ground.ask(4712, proto, v6=v6)["status"] == "gone"
    raw = f"s = socket.socket(socket.{name.format('socket.SOCK_RAW')})"
    first = ground.run(f"{raw}; print(json.dumps([os.getpid(), 0]), flush=True); {WAIT}", v6=v6)
    pid, _ = said(first)
    assert ground.ask(99, proto, v6=v6)["pid"] == pid
    second = ground.run(f"{raw}; print(json.dumps([os.getpid(), 0]), flush=True); {WAIT}", v6=v6)
    said(second)
    found = ground.ask(99, proto, v6=v6)
    assert found["status"] == "unknown" and "more than one raw socket" in found["reason"]
    for each in (process, first, second):
        end(each)


def test_a_child_holds_what_its_parent_opened(ground: Ground) -> None:
    process = ground.run(
        f"""
        s = tcp(local, remote)
        child = os.fork()
        if child:
            say(s, child)
            s.close()
            {WAIT}
            os.kill(child, 9)
        else:
            time.sleep(60)
        """
    )
    child, port = said(process)
    eventually(lambda: ground.ask(port)["pid"] == child, "the parent has closed it")
    end(process)


def test_a_process_in_a_pid_namespace_of_its_own(ground: Ground) -> None:
    process = ground.run(f"s = tcp(local, remote); say(s); {WAIT}", wrap=("unshare", "--pid", "--fork"))
    inner, port = said(process)
    found = ground.ask(port)
    assert (inner, found["inner_pid"]) == (1, 1) and found["pid"] > 1
    assert str(found["pid"]) in ground.lab.run(ground.agent, ["ip", "netns", "pids", ground.agent]).stdout.split()
    end(process)


def test_another_user(ground: Ground) -> None:
    process = ground.run(f"os.setresuid(4711, 4712, 0); s = tcp(local, remote); say(s); {WAIT}")
    pid, port = said(process)
    found = ground.ask(port)
    assert (found["pid"], found["uid"]) == (pid, 4712)
    end(process)


def test_a_socket_that_left_the_namespace(ground: Ground) -> None:
    """The process enters another namespace; its socket stays the agent's."""
    left = "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0"
    process = ground.run(f"s = tcp(local, remote); {left}; say(s); {WAIT}")
    pid, port = said(process)
    assert ground.ask(port)["pid"] == pid
    end(process)


def test_a_thread_with_descriptors_of_its_own(ground: Ground) -> None:
    process = ground.run(
        f"""
        import ctypes
        def own():
            assert ctypes.CDLL(None).unshare(0x400) == 0
            global s
            s = tcp(local, remote)
            say(s)
            time.sleep(60)
        threading.Thread(target=own, daemon=True).start()
        {WAIT}
        """
    )
    pid, port = said(process)
    assert ground.ask(port)["pid"] == pid
    end(process)


def test_who_is_gone_is_gone(ground: Ground) -> None:
    process = ground.run(f"s = udp(local, remote); say(s); {WAIT}")
    pid, port = said(process)
    assert ground.ask(port, UDP)["pid"] == pid
    end(process)
    found = ground.ask(port, UDP)
    assert (found["status"], found["pid"], found["exe"]) == ("gone", 0, "")
    assert "no socket" in found["reason"]
    # A socket that the kernel still knows (FIN_WAIT, TIME_WAIT) and no process holds.
    ground.lab.popen(ground.gateway, [PYTHON, "-c", "import socket; s = socket.create_server(('', 443)); s.accept()"])
    eventually(lambda: ":443 " in ground.lab.run(ground.gateway, ["ss", "-Hltn"]).stdout, "the server listens")
    code = "s = socket.create_connection(('10.99.1.1', 443)); say(s); s.close()"
    process = ground.run(code)
    _, port = said(process)
    process.wait(20)
    found = ground.ask(port, remote="10.99.1.1")
    assert (found["status"], found["pid"]) == ("gone", 0), found


def test_late_notes_name_nobody(ground: Ground) -> None:
    process = ground.run(f"s = udp(local, remote); say(s); {WAIT}")
    _, port = said(process)
    for late in (10, -10):
        found = ground.ask(port, UDP, late=late)
        assert found["status"] == "unknown" and "late" in found["reason"]
    end(process)


def test_a_huge_command_line(ground: Ground) -> None:
    process = ground.run(f"s = tcp(local, remote); say(s); {WAIT}", "x" * 100_000, "\x1b[2J")
    pid, port = said(process)
    found = ground.ask(port)
    assert found["pid"] == pid and len(found["cmdline"]) <= PROCESS_CMDLINE and found["cmdline"].endswith(" …")
    end(process)


def test_thousands_of_descriptors_and_of_processes(ground: Ground) -> None:
    """The time of a look-up is bounded, running out of it is reported, and other agents' flows are found meanwhile."""
    process = ground.run(
        f"""
        import resource
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        s = tcp(local, remote)
        kept = [os.open("/dev/null", 0) for _ in range(min(most - 100, 5000))]
        ready = os.pipe()
        for _ in range(30):
            if os.fork() == 0:
                s.close()
                os.write(ready[1], b"x")
                os.read(0, 1)  # until the pipe is closed
                os._exit(0)
        for _ in range(30):
            os.read(ready[0], 1)
        say(s)
        {WAIT}
        """
    )
    _, port = said(process)
    found = ground.ask(port, agent="hostile")
    assert found["status"] == "unknown" and "no time for more" in found["reason"], found
    again = ground.ask(port, agent="hostile")
    assert again["status"] == "unknown" and ("so many" in again["reason"] or "no time" in again["reason"]), again
    end(process)


def test_of_two_namespaces_on_a_bridge_the_one_that_has_the_address(ground: Ground) -> None:
    lab, inside = ground.lab, [ground.lab.ns("one"), ground.lab.ns("two")]
    lab.run(ground.gateway, ["ip", "link", "add", "br0", "type", "bridge"], check=True)
    lab.run(ground.gateway, ["ip", "link", "set", "br0", "up"], check=True)
    for number, namespace in enumerate(inside, 1):
        add = ["ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", namespace]
        lab.run(ground.gateway, add, check=True)
        lab.run(ground.gateway, ["ip", "link", "set", f"port{number}", "master", "br0", "up"], check=True)
        lab.run(namespace, ["ip", "address", "add", f"10.99.7.{number}/24", "dev", "eth0"], check=True)
        lab.run(namespace, ["ip", "link", "set", "eth0", "up"], check=True)
    code = (
        f"s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 5353)); s.sendto(b'x', (remote, 443)); say(s); {WAIT}"
    )
    opened = [lab.popen(each, [PYTHON, "-c", PRELUDE + code, "", "10.99.7.9"]) for each in inside]
    pids = [said(process)[0] for process in opened]
    for _ in range(2):  # the second time from memory
        for number, pid in enumerate(pids, 1):
            found = ground.ask(5353, UDP, interface="br0", local=f"10.99.7.{number}", remote="10.99.7.9")
            assert found["pid"] == pid
    found = ground.ask(5353, UDP, interface="br0", local="10.99.7.3", remote="10.99.7.9")
    assert found["status"] == "unknown" and "no namespace on this host" in found["reason"]
    for process in opened:
        end(process)


def test_a_namespace_that_nobody_is_in_hides_no_other(ground: Ground) -> None:
    """An agent can leave its namespace empty, with flows from it that no process explains."""
    code = """
    from egress.gateway.attribution.namespaces import End, Namespaces, UnknownNamespaceError
    namespaces = Namespaces()
    for _ in range(2):
        try:
            namespaces._open(End(4000, 1, False))
        except UnknownNamespaceError as why:
            print(why)
    namespaces.behind(socket.if_nametoindex("egr0001"), socket.inet_aton("10.99.1.2")).close()
    """
    done = ground.lab.run(ground.gateway, [PYTHON, "-c", "import socket\n" + textwrap.dedent(code)], check=True)
    first, second = done.stdout.splitlines()
    assert "leads to the agent's namespace" in first and "a moment ago" in second


def test_agents_elsewhere_are_unknown(ground: Ground) -> None:
    ground.lab.run(ground.gateway, ["ip", "link", "add", "wan0", "type", "bridge"], check=True)
    found = ground.ask(5353, UDP, interface="wan0")
    assert found["status"] == "unknown" and "not on this host" in found["reason"] and "wan0" in found["reason"]
