"""Sandboxes on the real kernel. Their maker runs in a namespace of its own, which plays the host."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.net import PYTHON, Lab, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

# egress run in small: argv is NAME INDEX DIR USER COMMAND…; prints the child's exit code on stderr's last line.
RUN = """
import sys
from pathlib import Path
from egress.config import Config
from egress.errors import EgressError
from egress.gateway.sandbox import sandbox
from egress.gateway.sandbox.account import account
from egress.gateway.sandbox.launch import launch
name, index, directory, user, *command = sys.argv[1:]
config = Config(run_dir=Path(directory) / "run", state_dir=Path(directory) / "state")
try:
    made = sandbox.create(name, int(index), config)
    try:
        sandbox.connect(made)
        code = launch(made, command, config, account(user) if user else None)
    finally:
        sandbox.destroy(made, config)
except EgressError as error:
    sys.stderr.write(f"ERROR {error}\\n")
    code = error.exit_code
sys.exit(code)
"""

TIDY = """
import sys
from pathlib import Path
from egress.config import Config
from egress.gateway.sandbox import sandbox
directory = Path(sys.argv[1])
config = Config(run_dir=directory / "run", state_dir=directory / "state")
found = sandbox.leftovers(config)
for each in found + found:
    sandbox.destroy(each, config)
sys.stdout.write(" ".join(each.name for each in found))
"""

# RTM_GETLINK, then RTM_DELLINK of link 2, in the namespace known here as number 0 (IFLA_TARGET_NETNSID, 46).
ACROSS = """
import socket, struct, sys
def ask(kind, index, flags):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        body = struct.pack("=BxHiIIHHi", 0, 0, index, 0, 0, 8, 46, 0)
        s.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answer = s.recv(65536)
    error = struct.unpack_from("=H", answer, 4)[0] == 2
    return struct.unpack_from("=i", answer, 16)[0] if error else 0
sys.stdout.write(f"{ask(18, 1, 1)} {ask(17, 2, 5)}")
"""


class Host:
    """A namespace that plays the host, and a directory for its run_dir and state_dir."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.directory = lab, directory
        self.ns = lab.ns("host")
        self.name = f"t{os.getpid()}"

    def argv(self, *command: str, user: str = "", index: int = 7, name: str = "") -> list[str]:
        return [PYTHON, "-c", RUN, name or self.name, str(index), str(self.directory), user, *command]

    def run(self, *command: str, user: str = "", index: int = 7) -> subprocess.CompletedProcess[str]:
        return self.lab.run(self.ns, self.argv(*command, user=user, index=index))

    def state(self) -> str:
        """The parts of the host's state in which a sandbox could leave something."""
        shown = [
            "ip -br link",
            "ip address",
            "ip route",
            "ip -6 route",
            "sysctl -a -r 'forwarding|accept_ra|redirects'",
        ]
        text = self.lab.run(self.ns, ["sh", "-c", "; ".join(shown)]).stdout
        return (
            text
            + str(sorted(Path("/run/netns").glob(f"*{self.name}")))
            + str(Path(f"/etc/netns/egress-{self.name}").exists())
        )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Lab() as lab:
        yield Host(lab, tmp_path)


def test_a_command_runs_with_its_exit_code_in_a_working_network(host: Host) -> None:
    before = host.state()
    script = (
        "ping -c1 -W1 10.77.0.29 >/dev/null && ping -6 -c1 -W1 fd65:6772:6573:7::1 >/dev/null && ip -o link | wc -l;"
        "cat /etc/resolv.conf >/dev/null && cat; ip link add egrx type veth peer name egry || exit 9; exit 42"
    )
    done = host.lab.run(host.ns, host.argv("sh", "-c", script), stdin="typed")
    assert (done.stdout, done.returncode) == ("2\ntyped", 42), done.stderr
    assert host.state() == before


def test_root_inside_cannot_leave(host: Host) -> None:
    """Each line must fail inside; `ok` after a line's number says that it did not."""
    (host.directory / "run").mkdir()
    (host.directory / "run" / "gateway.sock").write_text("")
    attempts = [
        "nsenter -t 1 -n true && test $(readlink /proc/1/ns/net) != $(readlink /proc/self/ns/net)",
        "nsenter -t 1 -m true",
        f"nsenter --net=/run/netns/{host.ns} true",
        f"test -e {host.directory}/run/gateway.sock",
        "ls /run/* | grep .",
        "umount /run",
        "mount -t tmpfs none /mnt",
        "mount --bind / /mnt",
        "unshare -m true",
        "modprobe dummy && lsmod | grep dummy",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/uevent_seqnum",
        "mknod /tmp/egress-test-node b 254 0",
        "cat /proc/1/mem /proc/1/environ",
        "ls /proc/1/fd/0",
        "test -d /proc/$HOST",
        "kill -0 $HOST",
        # a nested user namespace gives every capability in itself, and no way back
        "unshare -Urm sh -c 'umount /run; ls /run/* | grep .'",
        "unshare -Urm umount /proc/sys",
    ]
    script = "".join(f"{{ {line}; }} >/dev/null 2>&1 && echo {number} ok\n" for number, line in enumerate(attempts))
    done = host.run("env", f"HOST={os.getpid()}", "sh", "-c", script + "echo end")
    assert done.stdout == "end\n", [attempts[int(line.split()[0])] for line in done.stdout.splitlines()[:-1]]


def test_root_inside_reaches_no_link_of_the_host(host: Host) -> None:
    """The attack is real where the network namespace is not owned by a user namespace of its own, as with plain `ip
    netns`.
    """
    inner = host.lab.ns("plain")
    host.lab.run(
        host.ns, ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", inner], check=True
    )
    host.lab.run(inner, ["ip", "link"])  # makes the kernel number the other side's namespace
    assert host.lab.run(inner, [PYTHON, "-c", ACROSS]).stdout == "0 0"
    assert "v0" not in host.lab.run(host.ns, ["ip", "-br", "link"]).stdout
    done = host.run("sh", "-c", f"ip link >/dev/null; '{PYTHON}' -c '{ACROSS}'")
    assert done.stdout == "-13 -13"  # EACCES


def test_capabilities_user_and_inherited_files(host: Host) -> None:
    as_root = host.run("sh", "-c", "grep -E 'Cap|NoNewPrivs' /proc/self/status; ls /proc/self/fd")
    facts = dict(line.split(":\t") for line in as_root.stdout.splitlines() if ":" in line)
    kept = f"{sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 10, 12, 13, 18)):016x}"
    assert facts == {
        "CapInh": "0" * 16, "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": "0" * 16, "NoNewPrivs": "1"
    }  # fmt: skip
    assert as_root.stdout.split()[-4:] == ["0", "1", "2", "3"]  # ls itself opened 3
    as_nobody = host.run("sh", "-c", "id -un; id -G; grep CapEff /proc/self/status; echo $HOME", user="nobody")
    assert as_nobody.stdout.split("\n")[0] == "nobody"
    assert "CapEff:\t" + "0" * 16 in as_nobody.stdout and "0" not in as_nobody.stdout.split("\n")[1].split()


def test_the_terminal_cannot_be_typed_into(host: Host) -> None:
    """A file that is no terminal answers ENOTTY (25); the filter answers EPERM (1), and to nothing else."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for request in (0x5412, 0x541C, 0x5412 | 1 << 32, 0x5413):\n"
        "    libc.ioctl(0, ctypes.c_ulong(request), b'x' * 64)\n"
        "    sys.stdout.write(f'{ctypes.get_errno()} ')\n"
    )
    assert host.run(PYTHON, "-c", code).stdout == "1 1 1 25 "


def test_only_sockets_that_a_network_namespace_confines(host: Host) -> None:
    """AF_VSOCK (40) reaches a virtual machine's host from any namespace; io_uring opens what seccomp does not see."""
    code = (
        "import ctypes, socket, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for family, kind in ((1, 1), (2, 1), (10, 2), (16, 3), (17, 2), (40, 1), (44, 3), (31, 1)):\n"
        "    sys.stdout.write('ok ' if libc.socket(family, kind, 0) >= 0 else f'{ctypes.get_errno()} ')\n"
        "libc.syscall(425, 8, ctypes.create_string_buffer(120))\n"
        "sys.stdout.write(str(ctypes.get_errno()))\n"
    )
    assert host.run(PYTHON, "-c", code).stdout == "ok ok ok ok ok 97 97 97 38"


def test_not_found_not_executable_and_killed(host: Host) -> None:
    missing = host.run("/no/such/thing")
    assert (missing.returncode, missing.stderr) == (127, "egress: /no/such/thing: command not found\n")
    forbidden = host.run("/etc/passwd")
    assert (forbidden.returncode, forbidden.stderr) == (126, "egress: /etc/passwd: cannot execute: Permission denied\n")
    assert host.run("sh", "-c", "kill -9 $$").returncode == 137
    assert host.run("sh", "-c", "sleep 60 & exit 3").returncode == 3  # its background processes end with it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_reach_the_command(host: Host, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    process = host.lab.popen(
        host.ns, host.argv("sh", "-c", f"trap 'exit 5' {name}; echo go; while :; do sleep 0.05; done")
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(number)
    assert process.wait(5) == 5


def test_the_terminal_works_and_control_c_arrives_once(host: Host) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        script = (
            "trap 'n=$((n+1))' INT; tty >/dev/null && echo ready; sleep 1; sleep 0.3; echo got $n; kill -INT $$; exit 6"
        )
        argv = ["ip", "netns", "exec", host.ns, *host.argv("sh", "-c", script)]
        os.chdir(Path(__file__).resolve().parents[2])
        os.execvp(argv[0], argv)
    text = b""
    deadline = time.monotonic() + 8
    while b"got" not in text and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 1000)
            if text.count(b"ready") == 1 and b"^C" not in text:
                os.write(terminal, b"\x03")
    assert b"got 1\r\n" in text
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    os.close(terminal)


def test_a_killed_run_ends_its_command_and_is_tidied_up(host: Host) -> None:
    before = host.state()
    process = host.lab.popen(host.ns, host.argv("sh", "-c", "echo go; exec sleep 61.7"))
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    assert host.lab.python(host.ns, TIDY, str(host.directory)) == ""  # alive, so not left over
    process.kill()
    process.wait()
    netns = f"egress-{host.name}"
    eventually(lambda: not host.lab.run(host.ns, ["ip", "netns", "pids", netns]).stdout, "the command ends")
    assert host.state() != before
    assert host.lab.python(host.ns, TIDY, str(host.directory)) == host.name
    assert host.state() == before


def test_collisions_and_used_up_pools_are_said(host: Host) -> None:
    process = host.lab.popen(host.ns, host.argv("sh", "-c", "echo go; exec cat"))
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    assert f"sandbox {host.name} exists already" in host.run("true", index=8).stderr
    other = host.lab.run(host.ns, host.argv("true", name=host.name + "b"))
    assert "interface egr0007 exists already" in other.stderr and other.returncode == 2
    beyond = host.lab.run(host.ns, host.argv("true", name=host.name + "b", index=16384))
    assert "no address left for sandbox 16384" in beyond.stderr
    two = host.lab.run(host.ns, host.argv("sh", "-c", "exit 4", name=host.name + "b", index=8))
    assert two.returncode == 4, two.stderr
    forwarding = ["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    assert host.lab.run(host.ns, forwarding).stdout.split() == ["1", "1"]  # one of the two is still there
    process.communicate()
    assert process.returncode == 0
    assert host.lab.run(host.ns, forwarding).stdout.split() == ["0", "0"]


def test_forwarding_keeps_uplinks_listening_to_router_advertisements(host: Host) -> None:
    host.lab.run(host.ns, ["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"], check=True)
    host.lab.run(
        host.ns, ["sysctl", "-qw", "net.ipv6.conf.up1.accept_ra=0", "net.ipv4.conf.up1.forwarding=1"], check=True
    )
    before = host.state()
    code = (
        "import json,sys\nfrom pathlib import Path\nfrom egress.gateway.kernel import forwarding as f\n"
        "r=Path(sys.argv[1])\nf.switch_on(r); f.switch_on(r)\n"
        "seen=[f.read(f'ipv6/conf/{i}/accept_ra') for i in ('up0','up1')]+[f.read('ipv4/ip_forward')]\n"
        "f.switch_back(r); f.switch_back(r); sys.stdout.write(json.dumps(seen))"
    )
    assert json.loads(host.lab.python(host.ns, code, str(host.directory / "record"))) == ["2", "0", "1"]
    assert host.state() == before


@pytest.mark.parametrize("everywhere", ["0", "1"])
def test_spoofed_packets_reach_the_forward_hook(host: Host, everywhere: str) -> None:
    """Even where the host filters by reverse path on all interfaces: the engine has to see them to record them."""
    for line in (
        f"sysctl -qw net.ipv4.conf.all.rp_filter={everywhere}",
        "ip link add up0 type veth peer name up1",
        "ip address add 192.168.7.1/24 dev up0",
        "ip link set up0 up",
        "ip link set up1 up",
        "ip route add default via 192.168.7.2",
        "iptables -A FORWARD -s 10.200.0.1 -j DROP",
        "ip6tables -A FORWARD -s fd77::1 -j DROP",
        "ip -6 route add default dev up0",
    ):
        host.lab.run(host.ns, line.split(), check=True)
    spoof = (
        "ip address add 10.200.0.1/32 dev eth0; ip address add fd77::1/128 dev eth0 nodad;"
        "ping -c1 -W0.2 -I 10.200.0.1 198.51.100.1; ping -c1 -W0.2 -I fd77::1 2001:db8::1"
    )
    host.run("sh", "-c", spoof)
    for tool in ("iptables", "ip6tables"):
        assert (
            "[1:" in host.lab.run(host.ns, [f"{tool}-save", "-c", "-t", "filter"]).stdout.split("-A FORWARD")[0][-20:]
        )
