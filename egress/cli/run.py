"""`egress run`: runs a command in a fresh sandbox behind the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from egress.cli.input.budget import budget_option
from egress.config import Config, load_config
from egress.control import Client, NotRunningError
from egress.errors import EgressError
from egress.gateway.kernel.command import python
from egress.model import Budget, Mode
from egress.policy.file import load_policy

START_SECONDS = 30.0  # that a gateway may take to start
EXAMPLES = """\b
Examples:
  egress run -- curl https://example.org                  refused: nothing is allowed by default
  egress run --default allow -- python3 train.py          passes, but tunnels, miners and beacons are refused
  egress run --policy allow.yaml --agent ci -- make test  what the file allows, as agent `ci`
  egress run --policy allow.yaml --budget bytes=10mb/hour --budget connections=100/minute -- ./agent
  sudo egress run --user root -- tcpdump -i any           as root of the sandbox: only root may capture or use ip
  egress run --mode monitor --default allow -- ./agent    refuse nothing, record what would have been refused
"""


@click.command("run", epilog=EXAMPLES, context_settings={"allow_interspersed_args": False})
@click.option("--agent", default="", help="The agent's name [generated].")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="enforce",
    show_default=True,
    help="enforce; monitor: record refusals, but let packets pass; ask: unmatched flows wait for approval.",
)
@click.option(
    "--default",
    "default",
    type=click.Choice(["allow", "deny"]),
    default="deny",
    show_default=True,
    help="The action for flows that match no rule.",
)
@click.option(
    "--policy", type=click.Path(path_type=Path), help="Policy file of this sandbox, besides the gateway's rules."
)
@budget_option
@click.option("--user", default="", help="Run the command as this user [the one who called sudo, else root].")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Config file.")
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    agent: str,
    mode: str,
    default: str,
    policy: Path | None,
    budgets: tuple[Budget, ...],
    user: str,
    config_file: Path | None,
    cmd: tuple[str, ...],
) -> int:
    """Run CMD in a sandbox whose only way out is the gateway. Needs root.

    Under sudo the command runs as the user who called sudo; `--user root` keeps root, who can configure the sandbox's
    network and change the host's files. Exit code and signals are the command's. If no gateway is running, one is
    started; it ends with the last sandbox. A final line sums up the refusals; `egress query --agent NAME` has the
    details.
    """
    from egress.gateway.sandbox.account import account, invoker
    from egress.gateway.sandbox.launch import launch
    from egress.gateway.sandbox.sandbox import Sandbox

    who = account(user) if user else invoker(os.environ)
    config = load_config(config_file)
    rules = load_policy(policy) if policy else ()
    action = "accept" if default == "allow" else "reject"
    wanted: dict[str, object] = {"agent": agent, "mode": mode, "default": action}
    client, opened = _open(config, config_file, wanted | {"rules": rules, "budgets": budgets})
    with client:
        # Under systemd the gateway's mounts are its own; one of an older version does not report its pid.
        root = Path(f"/proc/{opened['pid']}/root" if "pid" in opened else "/")
        code = launch(Sandbox(**opened["sandbox"]), list(cmd), config, who, root)
        _summarize(client, opened["agent"])
        client.finish()  # a script may use the agent's name again at once
    return code


def _open(config: Config, config_file: Path | None, wanted: dict[str, object]) -> tuple[Client, dict[str, Any]]:
    """Open a sandbox with the settings `wanted`; it lives as long as the connection of the returned client.

    Returns also the gateway's answer: `agent` (its name), `sandbox` (the fields of a Sandbox) and `pid` (the
    gateway's; absent if it is of an older version). Starts a gateway if none is running, or if the running one is
    ending. Raises EgressError.
    """
    deadline = time.monotonic() + START_SECONDS
    started: BinaryIO | None = None
    while True:
        try:
            client = Client(config.control_socket, START_SECONDS)
            return client, client.call("sandbox.open", **wanted)
        except NotRunningError:
            started = started or _start_gateway(config, config_file)
        if started.read(1) == b"":
            raise EgressError(f"cannot start a gateway: {_last_log_line(_log(config))}")
        if time.monotonic() > deadline:
            raise EgressError(f"the gateway did not start within {START_SECONDS:.0f} s; see {_log(config)}")
        time.sleep(0.1)


def _start_gateway(config: Config, config_file: Path | None) -> BinaryIO:
    """Start a gateway that outlives this process. Raises EgressError.

    Returns the read end of a pipe, which does not block: it yields None while the gateway runs, then the end of file.
    """
    command, environment = python("egress")
    command += ["gateway", "--exit-when-idle"]
    if config_file is not None:
        command += ["--config", str(config_file.absolute())]
    alive, held = os.pipe()
    os.set_blocking(alive, False)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        with _log(config).open("ab") as log:
            subprocess.run(
                ["sh", "-c", '"$@" &', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                start_new_session=True,
                pass_fds=(held,),
                check=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EgressError(f"cannot start a gateway: {error}; run as root") from None
    finally:
        os.close(held)
    return cast(BinaryIO, os.fdopen(alive, "rb", buffering=0))


def _log(config: Config) -> Path:
    return config.run_dir / "gateway.log"


def _last_log_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("egress: ") if lines else f"no message in {path}"


def _summarize(client: Client, agent: str) -> None:
    """Print one line on standard error about the refusals of an agent, or the reason why there is none."""
    try:
        tally = client.call("summary", agent=agent)["tally"]
    except EgressError as error:
        click.echo(f"egress: {agent}: no summary: {error}", err=True)
        return
    sys.stdout.flush()
    click.echo(f"egress: {agent}: {sentence(tally)}", err=True)


def sentence(tally: dict[str, Any]) -> str:
    """Format a gateway's tally of an agent (`RefusalCounts.as_json`) as one line.

    The line has the refused flows, those that passed only because of monitor mode, three of their destinations, the
    refused packets without a flow, and the findings. It says "nothing refused" if all of these are absent.
    """
    refused, monitored = tally["refused"], tally["monitored"]
    if not refused and not tally["packets"] and not tally["findings"]:
        return "nothing refused"
    parts = [f"{refused - monitored} flow{'s' * (refused - monitored != 1)} refused"]
    if monitored:
        parts.append(f"{monitored} would have been refused (monitor)")
    if tally["destinations"]:
        named = list(tally["destinations"].items())[:3]
        more = len(tally["destinations"]) - len(named)
        parts[-1] += " to " + ", ".join(f"{place}" + (f" ({count}x)" if count > 1 else "") for place, count in named)
        parts[-1] += f" and {more} more" if more else ""
    if tally["packets"]:
        parts.append(f"{tally['packets']} stray packets refused")
    if tally["findings"]:
        parts.append("found " + ", ".join(f"{name} {count}x" for name, count in sorted(tally["findings"].items())))
    return "; ".join(parts)
