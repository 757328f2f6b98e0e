"""`egress serve` as a process of its own: TCP, TLS, and the unix socket with the peer's identity by the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from api.server import DRAIN_SECONDS, is_exposed, tls_context
from egress.config import Api
from egress.errors import InputError
from tests.ports import free_port

pytestmark = pytest.mark.slow  # starts real servers

START_SECONDS = 30.0
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to connect as root and then as another user")
RULE = {"action": "allow", "destination": "example.org"}


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "egress", "serve", "--config", str(config), *arguments]


def write_config(directory: Path, **api: object) -> Path:
    path = directory / "egress.yaml"
    document = {"state_dir": str(directory), "run_dir": str(directory), "api": {"port": free_port(), **api}}
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def serving(config: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(config, *arguments), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(config.parent / "api.sock", process)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it does not listen")


def local(config: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(config.parent / "api.sock")), base_url="http://egress")


def port_of(config: Path) -> int:
    return int(yaml.safe_load(config.read_text())["api"]["port"])


@ROOT
def test_tcp_and_unix_socket_together(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    url = f"http://127.0.0.1:{port_of(config)}/api/v1"
    (tmp_path / "api.sock").write_text("a killed server's")
    (tmp_path / "api.sock").unlink()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "api.sock"))
    with serving(config, "--access-log") as process, local(config) as root:
        made = root.post("/api/v1/tokens", json={"name": "t", "role": "editor"})
        assert made.status_code == 201, made.text
        headers = {"Authorization": f"Bearer {made.json()['token']}"}
        assert httpx.get(f"{url}/allowlist").status_code == 401
        forged = {"X-Forwarded-For": "unix:0", "X-Forwarded-Proto": "unix"}
        assert httpx.get(f"{url}/allowlist", headers=forged).status_code == 401
        assert httpx.post(f"{url}/allowlist", json=RULE, headers=headers).status_code == 201
        assert len(root.get("/api/v1/allowlist").json()["items"]) == 1
        assert as_nobody(tmp_path / "api.sock", {}) == 403
        assert as_nobody(tmp_path / "api.sock", headers) == 200
        second = subprocess.run(command(config), capture_output=True, text=True, check=False)
        assert second.returncode == 1 and len(second.stderr.splitlines()) <= 2
        assert "api.sock" in second.stderr or "taken" in second.stderr
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
        assert process.returncode == 0, said
    assert not (tmp_path / "api.sock").exists()
    assert "uid:0 (root) POST /api/v1/tokens 201" in said and "Traceback" not in said
    assert made.json()["token"] not in said


def as_nobody(path: Path, headers: dict[str, str]) -> int:
    """The status that a process of user 65534 gets over the unix socket."""
    program = (
        "import http.client, json, os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); os.setuid(65534); s.connect('api.sock')\n"
        "c = http.client.HTTPConnection('egress'); c.sock = s\n"
        "c.request('GET', '/api/v1/allowlist', headers=json.loads(sys.argv[1])); print(c.getresponse().status)\n"
    )
    arguments = [sys.executable, "-I", "-c", program, json.dumps(headers)]
    # The directories above belong to root alone; one that is the working directory needs no way to it.
    mode = path.parent.stat().st_mode
    path.parent.chmod(0o755)
    try:
        return int(subprocess.run(arguments, cwd=path.parent, capture_output=True, text=True, check=True).stdout)
    finally:
        path.parent.chmod(mode & 0o777)


@ROOT
def test_a_process_of_another_network_is_an_agent(tmp_path: Path) -> None:
    config = write_config(tmp_path, host="")
    program = (
        "import http.client, socket\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 'api.sock')!r})\n"
        "c = http.client.HTTPConnection('egress'); c.sock = s\n"
        "c.request('GET', '/api/v1/allowlist'); print(c.getresponse().status)\n"
    )
    arguments = [sys.executable, "-I", "-c", program]
    with serving(config):
        assert int(subprocess.run(arguments, capture_output=True, check=True).stdout) == 200
        isolated = subprocess.run(["unshare", "--net", *arguments], capture_output=True, check=True)
        assert int(isolated.stdout) == 403


@ROOT
def test_a_running_request_is_finished_after_sigterm(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    document = {"rules": [{"action": "allow", "destination": f"h{number}.example.org"} for number in range(3000)]}
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    answers: list[httpx.Response] = []
    begun, told = threading.Event(), threading.Event()

    def halves() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        begun.set()
        told.wait(START_SECONDS)
        yield body[len(body) // 2 :]

    def upload() -> None:
        with local(config) as root:
            assert root.get("/api/v1/allowlist").status_code == 200  # the connection is accepted
            answers.append(root.post("/api/v1/allowlist/import", content=halves(), headers=headers, timeout=60))

    with serving(config, "--access-log") as process:
        uploading = threading.Thread(target=upload)
        uploading.start()
        assert begun.wait(START_SECONDS)
        process.send_signal(signal.SIGTERM)
        told.set()
        uploading.join()
        assert process.wait(15) == 0
    (answer,) = answers
    assert answer.status_code == 200 and answer.json()["added"] == 3000


@ROOT
def test_a_stream_ends_at_sigterm(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with serving(config) as process, local(config) as root, root.stream("GET", "/api/v1/stream") as stream:
        assert stream.status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        stream.read()
        assert process.wait(15) == 0
        assert time.monotonic() - began < DRAIN_SECONDS / 2


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port_of(config)))
        taken.listen()
        done = subprocess.run(command(config), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr and "Traceback" not in done.stderr


def test_what_it_cannot_start_with(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    document = yaml.safe_load(config.read_text())
    for change, words in (
        ({"state_dir": str(tmp_path / "none")}, "does not exist"),
        ({"api": {"tls_cert": str(config), "tls_key": str(config)}}, "tls_cert"),
        ({"api": {"tls_cert": str(config)}}, "go together"),
        ({"api": {"host": "no such host.invalid"}}, "api.host"),
    ):
        config.write_text(yaml.safe_dump({**document, **change}))
        # In a process of its own: it may have confined itself by then, for good.
        done = subprocess.run(command(config), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == InputError.exit_code and words in done.stderr and "Traceback" not in done.stderr


def test_what_is_exposed() -> None:
    exposed = [host for host in ("", "127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.0.2.1", "gw.example.org")
               if is_exposed(Api(host=host))]  # fmt: skip
    assert exposed == ["0.0.0.0", "::", "192.0.2.1", "gw.example.org"]


# --- TLS ----------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority in files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = directory / f"{name}.pem"
        certificate = self._sign(self.subject, self.key.public_key(), ca=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), ca=False)
        cert_file, key_file = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file

    def _sign(self, subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def test_tls_and_client_certificates(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    cert, key = ours.issue("server")
    client, other = ours.issue("client"), foreign.issue("other")
    config = write_config(tmp_path, tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(ours.file))
    url = f"https://localhost:{port_of(config)}/api/v1"
    trust = ssl.create_default_context(cafile=str(ours.file))

    def get(context: ssl.SSLContext) -> httpx.Response:
        with httpx.Client(verify=context) as asking:
            return asking.get(f"{url}/allowlist")

    with serving(config) as process:
        with pytest.raises(httpx.TransportError):
            get(trust)
        trust.load_cert_chain(*other)
        with pytest.raises(httpx.TransportError):
            get(trust)
        trust.load_cert_chain(*client)
        assert get(trust).status_code == 401, "a certificate is needed besides the token, not instead of it"
        old = ssl.create_default_context(cafile=str(ours.file))
        old.load_cert_chain(*client)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_2
        assert get(old).status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port_of(config)}/api/v1/openapi.json")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def test_tls_files_that_are_none(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    cert, key = authority.issue("server")
    context = tls_context(Api(tls_cert=cert, tls_key=key))
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    encrypted = tmp_path / "locked.key"
    encrypted.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    _, other = authority.issue("other")
    for api, words in (
        (Api(tls_cert=tmp_path / "none", tls_key=key), "no such file"),
        (Api(tls_cert=cert, tls_key=other), "mismatch"),
        (Api(tls_cert=cert, tls_key=encrypted), "password"),
        (Api(tls_cert=key, tls_key=key), "tls_cert"),
        (Api(tls_cert=cert, tls_key=key, tls_client_ca=key), "tls_client_ca"),
    ):
        with pytest.raises(InputError, match=words):
            tls_context(api)
