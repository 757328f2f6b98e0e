"""Argument types and options that several commands share."""

from __future__ import annotations

import re
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from egress.errors import InputError

_CASE = "egress.case"  # key in the context of a command

_AGO = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Time(click.ParamType[float]):
    """A point in time, in seconds since the epoch: ISO 8601 (UTC unless it names a zone), or a duration before now."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        if match := _AGO.fullmatch(text):
            return time.time() - int(match[1]) * _UNITS[match[2]]
        try:
            moment = datetime.fromisoformat(text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is not a valid time; write 2026-11-23T15:00 (UTC) or 15m, 2h, 1d for that long ago",
                param,
                ctx,
            )


def _note(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Store the value of --case for `chosen_case`. Raises BadParameter if it is empty."""
    if value == "":  # an unset shell variable must not select the live records
        raise click.BadParameter("the name is empty; `egress case list` lists the cases")
    ctx.meta[_CASE] = value


case_option = click.option(
    "--case",
    metavar="CASE",
    expose_value=False,
    callback=_note,
    help="Read this case instead (`egress case list`): its name, or a path that ends in .db.",
)


def chosen_case() -> str | None:
    """Return the --case of the running command; None without one."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_CASE)


def case_words() -> str:
    """Return ` --case NAME` for suggested commands; empty outside a case."""
    case = chosen_case()
    return f" --case {shlex.quote(case)}" if case else ""


class Listing(click.Group):
    """A group with `list` as its default: `egress audit --since 1d` means `egress audit list --since 1d`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def read_document(file: Path) -> tuple[bytes, str]:
    """Read a file of rules (-: standard input). Raises InputError.

    Returns its bytes, and the media type of JSON or YAML: by the file's suffix, else by the first character.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    json = file.suffix == ".json" or (file.suffix not in (".yaml", ".yml") and data.lstrip()[:1] == b"{")
    return data, "application/json" if json else "application/yaml"
