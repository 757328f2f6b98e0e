"""`egress run` as people use it: exit codes, signals, output, summary, and nothing left behind.

The stage's gateway namespace plays the host, with its uplink to the outside; the namespace `agent` is not used.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Mode, Reason
from egress.records.shape import FlowRecord
from egress.store.policy import approvals
from egress.store.query.reader import Filter
from tests.lab.gateway import HOSTS, POLICY, Peer, database, findings, flows, gone, listening, saved_rules, serve
from tests.lab.net import PYTHON, ROOT, eventually, needs_root

pytestmark = [pytest.mark.lab, needs_root]

PORT, WHO = 8080, 9100
START_SECONDS, END_SECONDS = 30.0, 40.0  # a gateway comes up; one that is idle ends
HOLDER: list[int] = []  # the process whose mount namespace is the host's
CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition("@")
    try:
        with socket.create_connection((host, int(port)), 5) as s:
            s.settimeout(2)
            sys.stdout.write(f"open {s.recv(99).decode().strip()}\\n")
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\\n")
"""
MINE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    s.sendall(b'{"id":1,"method":"mining.subscribe","params":[]}\\n')
    sys.stdout.write(s.recv(99).decode())
"""
WAIT = 'echo ready; read x; exec "$@"'


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A gateway that was started by `egress run` may serve several tests; at the end it must be gone."""
    with Stage(POLICY, {"limits": {"ask_timeout": 2}}) as built:
        serve(built, PORT)
        for host in HOSTS:
            Peer(built, built.outside, "who", host, str(WHO))
        listening(built, WHO, built.outside, HOSTS)
        # `ip netns exec` mounts for itself alone; on a host all see the same mounts, so here all enter this one's.
        HOLDER.append(built.lab.popen(built.gateway, ["sleep", "infinity"]).pid)
        yield built
        HOLDER.pop()


def words(stage: Stage, *argv: str) -> list[str]:
    options, command = list(argv), list[str]()
    if "--" in options:
        at = options.index("--")
        options, command = options[:at], options[at:]
    run = [PYTHON, "-m", "egress", "run", "--config", str(stage.config_file), *options, *command]
    return ["nsenter", "-t", str(HOLDER[-1]), "-m", f"--wd={ROOT}", *run]


def run(stage: Stage, *argv: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return stage.lab.run(stage.gateway, words(stage, *argv), timeout)


def start(stage: Stage, *argv: str) -> subprocess.Popen[str]:
    return stage.lab.popen(stage.gateway, words(stage, *argv))


def summary(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("egress: ")]
    return line


def ended(stage: Stage, agent: str) -> list[FlowRecord]:
    return [flow for flow in flows(stage, Filter(agent=agent)) if flow.end is not None]


def left(stage: Stage) -> list[str]:
    """The links and records that `egress run` made and has not removed."""
    links = stage.lab.run(stage.gateway, ["ip", "-br", "link"]).stdout.splitlines()
    sandboxes = stage.config.run_dir / "sandboxes"
    records = [path.name for path in sandboxes.glob("*.json")] if sandboxes.exists() else []
    return [line.split("@")[0] for line in links if line.startswith("egr")] + records


def test_exit_code_output_and_the_gateway_it_starts(stage: Stage) -> None:
    assert stage.status() is None
    done = run(stage, "--", "sh", "-c", "printf 'a\\0b'; echo on stderr >&2; exit 7")
    assert done.returncode == 7
    assert done.stdout == "a\0b"
    assert done.stderr.splitlines()[0] == "on stderr"
    assert summary(done.stderr).endswith(": nothing refused")
    eventually(lambda: left(stage) == [], "everything is removed")


def test_in_mode_ask_a_sandbox_waits_for_nobody_and_may_end_meanwhile(stage: Stage) -> None:
    name, place = f"q{os.getpid()}", f"{HOSTS[0]}@9000"
    done = run(stage, "--agent", name, "--mode", "ask", "--", "timeout", "0.5", PYTHON, "-c", CONNECT, place)
    assert done.returncode == 124
    assert summary(done.stderr).endswith(": nothing refused")
    done = run(stage, "--agent", name, "--mode", "ask", "--", PYTHON, "-c", CONNECT, place)
    assert done.stdout == "Connection refused\n"
    assert summary(done.stderr).startswith(f"egress: {name}: 1 flow refused to ")

    def states() -> list[str]:
        with database(stage) as engine, engine.connect() as connection:
            return sorted(each.state for each in approvals.listed(connection, agent=name))

    eventually(lambda: states() == ["expired", "withdrawn"], "both are over")


def test_the_summary_names_what_was_refused(stage: Stage) -> None:
    name = f"s{os.getpid()}"
    done = run(stage, "--agent", name, "--", PYTHON, "-c", CONNECT, *(f"{host}@9000" for host in HOSTS))
    assert done.stdout == "Connection refused\n" * 2
    line = summary(done.stderr)
    assert line.startswith(f"egress: {name}: 2 flows refused to ")
    assert "10.99.2.2:9000/tcp" in line and "[fd99:2::2]:9000/tcp" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(stage: Stage, number: signal.Signals) -> None:
    script = "trap 'echo caught; exit 5' TERM INT; echo ready; while :; do sleep 0.05; done"
    process = start(stage, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (5, "caught\n")
    assert summary(errors).endswith(": nothing refused")
    eventually(lambda: left(stage) == [], "everything is removed")


def test_ignored_signals_stay_ignored_in_the_command(stage: Stage) -> None:
    """Commands under nohup or in a background job keep ignored signals, except SIGCHLD: the exit code needs it."""
    ignoring = ["env", "--ignore-signal=INT,HUP,CHLD"]
    report = "kill -INT $$; kill -HUP $$; grep SigIgn /proc/self/status; exit 7"
    done = stage.lab.run(stage.gateway, [*ignoring, *words(stage, "--", "sh", "-c", report)], 60.0)
    assert done.returncode == 7
    ignored = int(done.stdout.removeprefix("SigIgn:"), 16)
    both = 1 << signal.SIGINT - 1 | 1 << signal.SIGHUP - 1
    assert ignored & (both | 1 << signal.SIGCHLD - 1) == both


def test_default_allow_leaves_by_the_hosts_address(stage: Stage) -> None:
    """The sandbox's private addresses are translated: the server sees the host's."""
    done = run(stage, "--default", "allow", "--", PYTHON, "-c", CONNECT, *(f"{host}@{WHO}" for host in HOSTS))
    assert done.stdout == "open 10.99.2.1\nopen fd99:2::1\n"
    assert summary(done.stderr).endswith(": nothing refused")


def test_default_allow_still_refuses_a_miner(stage: Stage) -> None:
    name = f"m{os.getpid()}"
    done = run(stage, "--agent", name, "--default", "allow", "--", PYTHON, "-c", MINE, HOSTS[0], str(PORT))
    assert done.returncode == 1 and "ConnectionResetError" in done.stderr and done.stdout == ""
    line = [line for line in done.stderr.splitlines() if line.startswith("egress: ")][-1]
    assert line.endswith(f"1 flow refused to 10.99.2.2:{PORT}/tcp; found mining.stratum 1x")


def test_monitor_lets_pass_and_says_what_it_would_have_refused(stage: Stage) -> None:
    name = f"w{os.getpid()}"
    done = run(stage, "--agent", name, "--mode", "monitor", "--", PYTHON, "-c", MINE, HOSTS[1], str(PORT))
    assert done.returncode == 0 and "mining.subscribe" in done.stdout
    assert "0 flows refused; 1 would have been refused (monitor)" in summary(done.stderr)
    eventually(lambda: bool(findings(stage, Filter(agent=name))), "the finding is in the database")
    (found,) = findings(stage, Filter(agent=name))
    assert (found.signature, found.mode, found.action) == ("mining.stratum", Mode.MONITOR, Action.REJECT)


def test_a_policy_of_its_own_holds_for_this_sandbox_only(stage: Stage) -> None:
    own = stage.directory / "own.yaml"
    own.write_text(f"rules:\n  - {{id: who, action: allow, protocol: tcp, ports: {WHO}}}\n")
    places = [f"{host}@{WHO}" for host in HOSTS]
    name = f"p{os.getpid()}"
    command = ["sh", "-c", WAIT, "sh", PYTHON, "-c", CONNECT, *places, f"{HOSTS[0]}@9000"]
    allowed = start(stage, "--agent", name, "--policy", str(own), "--", *command)
    assert allowed.stdout is not None
    assert allowed.stdout.readline() == "ready\n"
    meanwhile = run(stage, "--", PYTHON, "-c", CONNECT, *places)
    assert meanwhile.stdout == "Connection refused\n" * 2
    output, _ = allowed.communicate("go\n", timeout=30)
    assert output == "open 10.99.2.1\nopen fd99:2::1\nConnection refused\n"
    eventually(lambda: len(ended(stage, name)) == 3, "all three flows are recorded to their end", END_SECONDS)
    assert {(flow.dport, flow.action, flow.rule_id) for flow in ended(stage, name)} == {
        (WHO, Action.ACCEPT, f"{name}:who"), (9000, Action.REJECT, "")
    }  # fmt: skip


def test_a_budget_of_its_own_reaches_the_worker(stage: Stage) -> None:
    name = f"b{os.getpid()}"
    options = ["--agent", name, "--default", "allow", "--budget", "destinations=1/episode"]
    places = [f"{host}@{WHO}" for host in (HOSTS[0], HOSTS[1], HOSTS[0])]
    done = run(stage, *options, "--", PYTHON, "-c", CONNECT, *places)
    assert done.stdout == "open 10.99.2.1\nConnection refused\nopen 10.99.2.1\n"
    assert f"1 flow refused to [{HOSTS[1]}]:{WHO}/tcp" in summary(done.stderr)
    eventually(lambda: len(ended(stage, name)) == 3, "all three flows are recorded to their end", END_SECONDS)
    assert {(flow.dst, flow.reason) for flow in ended(stage, name)} == {
        (HOSTS[0], Reason.DEFAULT), (HOSTS[1], Reason.BUDGET)
    }  # fmt: skip


def test_a_broken_policy_is_refused_before_anything_is_made(stage: Stage) -> None:
    broken = stage.directory / "broken.yaml"
    broken.write_text("rules: [{action: permit}]")
    done = run(stage, "--policy", str(broken), "--", "true")
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.startswith("egress: ") and "action" in done.stderr and done.stderr.count("\n") == 1


def test_two_at_once_are_two_agents(stage: Stage) -> None:
    names = [f"t{os.getpid()}{letter}" for letter in "ab"]
    places = [f"{host}@{port}" for host, port in zip(HOSTS, (9000, 9001), strict=True)]
    command = ["sh", "-c", WAIT, "sh", PYTHON, "-c", CONNECT]
    pair = [start(stage, "--agent", *[name, "--", *command, place]) for name, place in zip(names, places, strict=True)]
    for process in pair:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    taken = run(stage, "--agent", names[0], "--", "true")
    assert taken.returncode == 1 and "already; choose another" in taken.stderr
    errors = [process.communicate("go\n", timeout=30)[1] for process in pair]
    assert f"{names[0]}: 1 flow refused to 10.99.2.2:9000/tcp" in errors[0]
    assert f"{names[1]}: 1 flow refused to [fd99:2::2]:9001/tcp" in errors[1]
    for name, host in zip(names, HOSTS, strict=True):
        eventually(lambda name=name: bool(flows(stage, Filter(agent=name))), "recorded")  # type: ignore[misc]
        assert {(flow.dst, flow.reason) for flow in flows(stage, Filter(agent=name))} == {(host, Reason.DEFAULT)}


def test_the_same_name_again_and_again(stage: Stage) -> None:
    """A script may reuse the agent's name as soon as a run has returned."""
    name = f"r{os.getpid()}"
    assert [run(stage, "--agent", name, "--", "true").stderr for _ in range(4)] == [
        f"egress: {name}: nothing refused\n"
    ] * 4


def test_killed_it_leaves_nothing(stage: Stage) -> None:
    process = start(stage, "--", "sh", "-c", "echo $$; exec sleep 300")
    assert process.stdout is not None
    process.stdout.readline()
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert left(stage) != []
    process.kill()
    eventually(lambda: left(stage) == [], "everything is removed")
    eventually(lambda: all(gone(int(pid)) for pid in children), "what ran inside is gone")


def test_at_the_end_the_gateway_goes_and_nothing_is_left(stage: Stage) -> None:
    """This test is the last of its file: no other may use the gateway for a while."""
    run(stage, "--", "true")
    found = stage.status()
    assert found is not None
    pid = int(str(found["pid"]))
    eventually(lambda: gone(pid), "the idle gateway ends", END_SECONDS)
    assert left(stage) == []
    assert "EGRESS" not in saved_rules(stage)
    forwarding = stage.lab.run(stage.gateway, ["sysctl", "-n", "net.ipv4.ip_forward"]).stdout.strip()
    assert forwarding == "1"  # as the stage had set it
    assert stage.status() is None


def test_under_sudo_the_command_is_the_callers(stage: Stage) -> None:
    sudo = ["env", "SUDO_UID=65534", "SUDO_GID=65534"]
    shown = ("--", "sh", "-c", "id -u; id -g; grep CapEff /proc/self/status")
    for options, who in (((), "65534"), (("--user", "root"), "0")):
        done = stage.lab.run(stage.gateway, [*sudo, *words(stage, *options, *shown)], 60.0)
        uid, gid, capabilities = done.stdout.splitlines()
        assert (uid, gid, capabilities.endswith("0" * 16)) == (who, who, who != "0"), done.stderr
