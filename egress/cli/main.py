"""The `egress` command group: finds the commands, and turns every error into one line and an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING

import click

from egress import __version__
from egress.cli.input.params import chosen_case
from egress.cli.output.text import plain
from egress.errors import EgressError
from egress.store.database.errors import DamagedDataError

if TYPE_CHECKING:
    from egress.store.database.handles import DBAPIError

EXAMPLES = """\b
Examples:
  egress doctor                               is this machine ready?
  egress gateway                              guard the attached agents
  egress run --default allow -- python3 a.py  run a command in a guarded sandbox
  egress replay capture.pcap                  what would have been found?
  egress query --action reject --since 1h     what was refused?
"""


COMMANDS = {
    "gateway": "egress.cli.gateway",
    "run": "egress.cli.run",
    "agent": "egress.cli.agent",
    "allow": "egress.cli.allow",
    "deny": "egress.cli.deny",
    "allowlist": "egress.cli.allowlist",
    "check": "egress.cli.check",
    "policy": "egress.cli.policy",
    "simulate": "egress.cli.simulate",
    "learn": "egress.cli.learn",
    "approvals": "egress.cli.approvals",
    "fleet": "egress.cli.fleet",
    "token": "egress.cli.token",
    "audit": "egress.cli.audit",
    "serve": "egress.cli.serve",
    "db": "egress.cli.db",
    "doctor": "egress.cli.doctor",
    "replay": "egress.cli.replay",
    "case": "egress.cli.case",
    "query": "egress.cli.query",
    "show": "egress.cli.show",
    "hunt": "egress.cli.hunt",
    "episodes": "egress.cli.episodes",
    "timeline": "egress.cli.timeline",
    "observe": "egress.cli.observe",
    "evidence": "egress.cli.evidence",
    "report": "egress.cli.report",
    "schema": "egress.cli.schema",
    "completion": "egress.cli.completion",
}


class Commands(click.Group):
    """Imports a command's module on first use: `replay` then needs no netfilter queue, and `run` no SQLAlchemy."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. An error in the data of a case names the case."""
        try:
            return super().invoke(ctx)
        except DamagedDataError as error:
            case = chosen_case()
            if case is None:
                raise
            raise DamagedDataError(error.why, f"case {case}") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        try:
            command: click.Command = importlib.import_module(module).command
        except ImportError as error:
            if error.name is None or error.name.split(".")[0] in ("egress", "signatures"):
                raise
            raise EgressError(
                f"package {error.name} is missing: pip install it (egress doctor names them all)"
            ) from None
        return command


@click.group(
    cls=Commands,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="egress")
def egress() -> None:
    """Inspect what agents send to the network, decide what may pass, and record every decision."""


def main() -> None:
    """Run the command and exit: 0 success, 1 error, 2 wrong usage, 3 refused or found; `run` exits as its command."""
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # if it were ignored, as some parents do, our children's exit codes would be lost
    try:
        code = egress.main(standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.Abort:
        code = 130
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        code = _complain(error.format_message().rstrip(".") + hint, 2)
    except click.ClickException as error:
        code = _complain(error.format_message(), error.exit_code)
    except EgressError as error:
        code = _complain(str(error), error.exit_code)
    except _database_errors() as error:
        from egress.store.database.database import explain

        code = _complain(f"cannot use the database: {explain(error)}", 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader closed the pipe
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _database_errors() -> tuple[type[DBAPIError], ...]:
    """Return the exception types of an open database; none if SQLAlchemy, which is slow to import, is not loaded."""
    module = sys.modules.get("sqlalchemy.exc")
    return () if module is None else (module.DBAPIError,)


def _complain(text: str, code: int) -> int:
    click.echo(f"egress: {plain(' '.join(text.split()))}", err=True)  # a database error may quote stored text
    return code
