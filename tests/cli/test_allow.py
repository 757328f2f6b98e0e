"""`egress allow` and `egress deny`, here and over a real server, and the completion of all commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from api.app import create_app
from egress.cli import main
from egress.cli.main import egress
from egress.config import load_config
from tests.api.serving import served
from tests.cli.conftest import Cli


def test_a_rule_is_made_and_said(cli: Cli) -> None:
    done = cli.ok("allow", "Example.ORG", "--port", "443", "--app", "tls", "--agent", "ci-*", "--id", "web")
    assert done.out == "made rule web: allow example.org 443 (tls) for ci-*\n"
    made = cli.ok("allow", "192.0.2.9", "--port", "22", "--port", "8000-8100", "--for", "once", "--protocol", "tcp",
                  "--exempt", "beacon.*", "--comment", "the poller", "-o", "json").json  # fmt: skip
    assert (made["ports"], made["protocol"], made["expires"], made["exempt"]) == (
        [22, "8000-8100"], "tcp", "once", ["beacon.*"],
    )  # fmt: skip
    assert made["author"] == "uid:0 (root)"
    inside = cli.ok("allow", "mirror.corp.example", "--private", "-o", "json").json
    assert (inside["private"], made.get("private")) == (True, None)
    assert cli.ok("deny", "10.0.0.0/8", "--for", "1d", "--protocol", "47").out.startswith("made rule ")
    assert [each["action"] for each in cli.ok("allowlist", "list", "-o", "json").json] == [
        "deny",
        "allow",
        "allow",
        "allow",
    ]


def test_a_dry_run_makes_nothing(cli: Cli) -> None:
    assert cli.ok("deny", "any", "--port", "25", "--dry-run").out.startswith("would make rule ")
    assert cli.ok("allowlist", "list", "-o", "json").json == []


def test_what_is_wrong_is_named(cli: Cli) -> None:
    for words, field in (
        (["a..b"], "destination: "),
        (["example.org", "--port", "http"], "ports: "),
        (["example.org", "--port", "9" * 5000], "ports: "),
        (["example.org", "--protocol", "tcq"], "protocol: "),
        (["example.org", "--protocol", "300"], "protocol: "),
        (["example.org", "--app", "T L S"], "app: "),
        (["example.org", "--for", "soon"], "expires: "),
        (["example.org", "--exempt", "[x"], "exempt: "),
        (["example.org", "--id", "a b"], "id: "),
        (["192.0.2.7", "--unnamed"], "unnamed: "),
        (["192.0.2.7", "--private"], "private: "),
    ):
        done = cli("allow", *words)
        assert (done.code, done.out) == (2, ""), done
        assert field in done.err and done.err.isprintable()
    cli.ok("allow", "example.org", "--id", "web")
    assert cli("allow", "example.net", "--id", "web").code == 1
    assert "web" in cli("allow", "example.org").err
    assert len(cli.ok("allowlist", "list", "-o", "json").json) == 1


def test_over_a_server_a_token_is_needed(cli: Cli, tmp_path: Path) -> None:
    token = cli.ok("token", "create", "--name", "ops", "--role", "editor", "--agent", "ci-*").out.strip()
    app = create_app(load_config(cli.config))
    with served(app) as url:
        there = ["--api", url]
        assert cli("allow", "example.org", *there).err == "a bearer token is needed: Authorization: Bearer egress_…"
        wrong = cli(
            "allow", "example.org", *there, env={"EGRESS_TOKEN": token[:-1] + ("A" if token[-1] != "A" else "B")}
        )
        assert (wrong.code, wrong.err) == (1, "the token is unknown, expired or revoked")
        done = cli("allow", "example.org", *there, env={"EGRESS_TOKEN": token})
        assert (done.code, done.err) == (1, "agent '*' is outside your scope: ci-*")
        file = tmp_path / "token"
        file.write_text(token + "\n")
        made = cli.ok("allow", "example.org", "--agent", "ci-1", "--token-file", str(file), "-o", "json", *there).json
        assert made["author"].endswith("(ops)")
        listed = cli.ok("allowlist", "list", "-o", "json", env={"EGRESS_API": url, "EGRESS_TOKEN": token}).json
        assert [each["id"] for each in listed] == [made["id"]]
        assert cli("token", "list", *there, env={"EGRESS_TOKEN": token}).err == "this needs role admin; yours is editor"
        for bad in ("two words", "tök", "x" * 300):
            done = cli("allowlist", "list", *there, env={"EGRESS_TOKEN": bad})
            assert (done.code, "EGRESS_TOKEN" in done.err) == (2, True), done
        file.write_bytes(b"\xff")
        assert cli("allowlist", "list", "--token-file", str(file), *there).code == 2
        assert cli("allowlist", "list", "--token-file", str(tmp_path / "none"), *there).code == 2
    app.state.database.close()
    gone = cli("allowlist", "list", *there)
    assert gone.code == 1 and gone.err.startswith(f"cannot reach the API at {url}: ")
    for bad in ("nowhere", "http://[::1", "ftp://x"):
        assert cli("allowlist", "list", "--api", bad).code in (1, 2)


def test_who_is_not_root_needs_a_token(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cli.ok("token", "create", "--name", "ops", "--role", "viewer").out.strip()
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert cli("allowlist", "list").err.startswith("user id 1000 needs a token here")
    assert cli("allowlist", "list", env={"EGRESS_TOKEN": token}).code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    # As the installed script does it: click names the variable after the program.
    program = "import sys; sys.argv[0] = 'egress'; from egress.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "completion", shell], capture_output=True, text=True, timeout=30, check=True
    )
    assert f"_EGRESS_COMPLETE={shell}_complete" in done.stdout
    words = {"COMP_WORDS": "egress allow", "COMP_CWORD": "allow" if shell == "fish" else "1"}
    environ = {**os.environ, "_EGRESS_COMPLETE": f"{shell}_complete", **words}
    offered = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert "allow" in offered.stdout and "allowlist" in offered.stdout and "deny" not in offered.stdout.split()


def test_completion_offers_every_command() -> None:
    offered = ShellComplete(egress, {}, "egress", "_EGRESS_COMPLETE").get_completions([], "")
    files = {path.stem for path in Path(main.__file__).parent.glob("*.py")} - {"__init__", "main"}
    assert {each.value for each in offered} == files
    assert files >= set(main.ORDER)
