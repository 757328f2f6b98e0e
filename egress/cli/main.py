"""The `egress` command group: finds the commands, and turns every expected error into one line and an exit code."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from pathlib import Path
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


# The order of commands in the help. A command that is not listed here comes after them.
ORDER = (
    "gateway", "block", "open", "resume", "run", "agent", "allow", "deny", "allowlist", "check", "policy", "simulate",
    "learn", "approvals",
    "fleet", "token", "audit", "serve", "db", "doctor", "replay", "case", "query", "show", "hunt", "episodes",
    "timeline", "observe", "evidence", "verify", "report", "schema", "completion",
)  # fmt: skip


def command_names() -> list[str]:
    """List the commands in the order of the help. Every module beside this one is a command; none is imported."""
    here = Path(__file__)
    found = {info.name for info in pkgutil.iter_modules([str(here.parent)]) if not info.ispkg} - {here.stem}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


class Commands(click.Group):
    """Imports a command's module when it is used: `replay` needs no netfilter queue, and `run` no SQLAlchemy."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command. If data of a case is damaged, the error names the case."""
        try:
            return super().invoke(ctx)
        except DamagedDataError as error:
            case = chosen_case()
            if case is None:
                raise
            raise DamagedDataError(error.why, f"case {case}") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return command_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command; None if there is none.

        Raises EgressError if a package that it needs is not installed.
        """
        if cmd_name not in command_names():
            return None
        try:
            command: click.Command = importlib.import_module(f"egress.cli.{cmd_name}").command
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
    """Run the command and exit: 0 success, 1 error, 2 wrong usage, 3 refused or found, 130 after Ctrl-C.

    `run` exits as its command. An expected error is one line on standard error, never a traceback.
    """
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # some parents ignore it: then the exit codes of child processes would be lost
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
    """Return the exception types of database drivers; none while SQLAlchemy, which is slow to import, is not loaded."""
    module = sys.modules.get("sqlalchemy.exc")
    return () if module is None else (module.DBAPIError,)


def _complain(text: str, code: int) -> int:
    """Print an error as one line on standard error; return `code`."""
    click.echo(f"egress: {plain(' '.join(text.split()))}", err=True)  # a database error may quote stored text
    return code
