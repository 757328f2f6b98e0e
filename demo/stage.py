"""The demonstration's network: namespaces agent, gateway and outside, with real servers outside and the real gateway.

Everything is in these namespaces and one temporary directory, and is removed at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from egress.config import Config, load_config
from tests.lab.net import ROOT, Lab, eventually

FAMILIES = ("IPv4", "IPv6")
SERVER = ("10.99.2.2", "fd99:2::2")
POOL = ("10.99.2.3", "fd99:2::3")
CONTROL = ("10.99.2.4", "fd99:2::4")  # the beacon's server
PAGE_BYTES = 1 << 20

POLICY = """\
rules:
  - {id: ssh-out, action: allow, destination: 10.99.2.0/24, ports: 22, app: ssh, comment: the build host}
  - {id: ssh-out6, action: allow, destination: "fd99:2::/64", ports: 22, app: ssh}
  - {id: web, action: allow, destination: any, protocol: tcp, ports: [80, 443, 8080]}
"""


class Stage:
    """A context manager that builds the namespaces `agent`, `gateway` and `outside`, and removes them and all files.

    `policy` is the text of the policy file; `settings` are added to the gateway's configuration. Needs root.
    """

    def __init__(self, policy: str = POLICY, settings: dict[str, object] | None = None) -> None:
        self.lab = Lab()
        self.directory = Path(tempfile.mkdtemp(prefix="egress-stage-"))
        self.directory.chmod(0o755)
        self.config_file = self.directory / "egress.yaml"
        self.policy_file = self.directory / "policy.yaml"
        self.policy_file.write_text(policy)
        values: dict[str, object] = {
            "state_dir": str(self.directory / "state"),
            "run_dir": str(self.directory / "run"),
            "policy": str(self.policy_file),
        }
        self.config_file.write_text(json.dumps(values | (settings or {})))
        self.daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stage:
        self.lab.__enter__()
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.lab.__exit__(kind, error, trace)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _build(self) -> None:
        self.agent, self.gateway, self.outside = (self.lab.ns(name) for name in ("agent", "gateway", "outside"))
        self.lab.veth(self.agent, "eth0", self.gateway, "agent0", 1)
        self.lab.veth(self.outside, "eth0", self.gateway, "uplink0", 2)
        for address in (*POOL, *CONTROL):
            self.lab.address(self.outside, address, "eth0")
        self.lab.route(self.agent, via=1)
        self.lab.route(self.outside, via=2)
        self.lab.forwarding(self.gateway)

    @property
    def config(self) -> Config:
        """The configuration of the gateway."""
        return load_config(self.config_file)

    def egress(self, *words: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `egress WORDS --config …` in the gateway's namespace, for at most `timeout` seconds.

        With `check` a failure of the command raises AssertionError.
        """
        command = [sys.executable, "-m", "egress", *words, "--config", str(self.config_file)]
        return self.lab.run(self.gateway, command, timeout, check=check)

    def start(self, *words: str) -> None:
        """Start `egress gateway WORDS` and wait until it answers; AssertionError if it ends."""
        command = [sys.executable, "-m", "egress", "gateway", "--config", str(self.config_file), *words]
        self.log = self.directory / "gateway.log"
        with self.log.open("a") as log:
            self.daemon = subprocess.Popen(
                ["ip", "netns", "exec", self.gateway, *command], stdout=log, stderr=log, cwd=ROOT
            )
        eventually(self._guards, "the gateway is up", 60.0)

    def _guards(self) -> bool:
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise AssertionError(f"the gateway ended: {self.log.read_text()[-2000:]}")
        return self.status() is not None

    @property
    def control(self) -> Path:
        """The path of a socket outside the gateway's namespace that leads to its control socket; made on first use."""
        path = self.directory / "control.sock"
        if not path.exists():
            words = ["-m", "tests.lab.door", str(path), str(self.config.control_socket)]
            self.lab.popen(self.gateway, [sys.executable, *words])
            eventually(path.exists, "the door is open", 30.0)
        return path

    def status(self) -> dict[str, object] | None:
        """Return the gateway's status, None while it does not answer."""
        from egress.control import Client, NotRunningError

        try:
            with Client(self.control) as client:
                answer: dict[str, object] = client.call("status")
                return answer
        except (NotRunningError, OSError):
            return None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Send the gateway a signal and wait for its end. Returns its exit status; None if it was not started."""
        if self.daemon is None:
            return None
        if self.daemon.poll() is None:
            self.daemon.send_signal(how)
        code = self.daemon.wait(30)
        self.daemon = None
        return code

    def attach(self, name: str = "rome-7", *words: str) -> None:
        """Attach the namespace `agent` as an agent of this name, with more options of `egress agent add`."""
        self.egress("agent", "add", name, "--netns", self.agent, *words)

    # --- servers outside --------------------------------------------------------------------------------

    def peer(self, namespace: str, *words: str) -> subprocess.Popen[str]:
        """Start a program of `demo.peers` in a namespace."""
        return self.lab.popen(namespace, [sys.executable, "-m", "demo.peers", *words])

    def serve_ssh(self, *ports: int) -> Path:
        """Start a real sshd outside on these ports. Returns the directory with the client's key and sshd's log."""
        keys = self.directory / "ssh"
        keys.mkdir(exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's privilege separation directory; Debian's unit makes it at boot
        for name in ("host", "client"):
            if not (keys / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
        shutil.copy(keys / "client.pub", keys / "authorized")
        settings = {
            "HostKey": keys / "host",
            "AuthorizedKeysFile": keys / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "LogLevel": "VERBOSE",
        }
        listen = [f"[{host}]:{port}" for port in ports for host in SERVER]
        options = [word for place in listen for word in ("-o", f"ListenAddress={place}")]
        options += [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        self.lab.popen(self.outside, [sshd, "-D", "-f", "/dev/null", "-E", str(keys / "log"), *options])
        for port in ports:
            self.listening(port, *SERVER)
        return keys

    def ssh(
        self, host: str, port: int, *command: str, options: tuple[str, ...] = (), timeout: float = 20.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the real ssh client in the agent's namespace, with the key of `serve_ssh`."""
        settings = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "ConnectTimeout": "10",
        }
        flags = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        key = str(self.directory / "ssh" / "client")
        words = ["ssh", "-F", "none", "-i", key, "-p", str(port), *flags, *options, f"root@{host}", *command]
        return self.lab.run(self.agent, words, timeout)

    def serve_web(self, port: int) -> str:
        """Start a web server outside with one page, of PAGE_BYTES random bytes. Returns the page's SHA-256."""
        root = self.directory / "web"
        root.mkdir(exist_ok=True)
        page = os.urandom(PAGE_BYTES)
        (root / "page").write_bytes(page)
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "::", "--directory", str(root)]
        self.lab.popen(self.outside, command)
        self.listening(port)
        return hashlib.sha256(page).hexdigest()

    def serve_peer(self, role: str, hosts: tuple[str, str], port: int, *words: str) -> None:
        """Start a server of `demo.peers` outside on an IPv4 and an IPv6 address, and wait until both listen."""
        for host in hosts:
            self.peer(self.outside, role, host, str(port), *words)
        self.listening(port, *hosts)

    def listening(self, port: int, *hosts: str) -> None:
        """Wait until servers outside listen at this TCP port of each host; without hosts, at any address."""

        def found() -> bool:
            sockets = self.lab.run(self.outside, ["ss", "-Hltn"]).stdout
            return all(f"{host}]:{port} " in sockets or f"{host}:{port} " in sockets for host in hosts or ("",))

        eventually(found, f"port {port} listens")
